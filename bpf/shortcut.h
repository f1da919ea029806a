/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The anchor's shortcut: packets whose flow conntrack knows are translated and forwarded right here, as conntrack's entry
 * and the routes say; out of a tunnel to the correspondent, and its answers into the tunnel. They pass neither netfilter's
 * rules nor the virtual interface.
 *
 * Of a UDP flow conntrack keeps a time and nothing else. Of a TCP connection it follows the windows, and what it does not see
 * is out of them: so only one that it is liberal with (IP_CT_TCP_FLAG_BE_LIBERAL, which the agent sets, as the kernel itself
 * does for flows that it offloads), and only while it is established. Packets that begin or end one are netfilter's. But not
 * resets: conntrack judges those by numbers that it knew when it saw the last packet.
 *
 * The kernel lends its conntrack (net/netfilter/nf_conntrack_bpf.c, Linux 6.0) to programs under the GPL only.
 */
#ifndef UPMT_SHORTCUT_H
#define UPMT_SHORTCUT_H

#include "encap.h"

#define STATUS_ASSURED (1 << 2) /* enum ip_conntrack_status, linux/netfilter/nf_conntrack_common.h */
#define STATUS_SEQUENCE_ADJUST (1 << 6) /* a helper changed the payload's length */
#define STATUS_DYING (1 << 9)
#define STATUS_HELPER (1 << 13)
#define BE_LIBERAL 8 /* IP_CT_TCP_FLAG_BE_LIBERAL, linux/netfilter/nf_conntrack_tcp.h */
#define CONNTRACK_ESTABLISHED 3 /* TCP_CONNTRACK_ESTABLISHED, the same */
#define GROWN 64 /* packets of a flow that is worth a change of conntrack's entry */
#define TO_THIS_HOST 0 /* PACKET_HOST; linux/if_packet.h drags in the C library */
#define TRANSPORT (ETH_HLEN + sizeof(struct iphdr))
#define UDP_SUM 6
#define TCP_FLAGS 13
#define TCP_SUM 16
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define OF_THE_KERNEL __attribute__((preserve_access_index)) /* offsets are those of the running kernel */

union nf_inet_addr {
	__be32 ip;
} OF_THE_KERNEL;

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union {
		__be16 all;
	} u;
} OF_THE_KERNEL;

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
	} dst;
} OF_THE_KERNEL;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} OF_THE_KERNEL;

struct ip_ct_tcp_state {
	__u8 flags;
} OF_THE_KERNEL;

struct ip_ct_tcp {
	struct ip_ct_tcp_state seen[2];
	__u8 state;
} OF_THE_KERNEL;

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
} OF_THE_KERNEL;

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	union nf_conntrack_proto proto;
} OF_THE_KERNEL;

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
					 struct bpf_ct_opts *opts, __u32 opts_size) __ksym;
extern int bpf_ct_change_timeout(struct nf_conn *entry, __u32 milliseconds) __ksym;
extern void bpf_ct_release(struct nf_conn *entry) __ksym;

struct ends {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
};

/* Of a packet behind its Ethernet header: between which ends it goes, and between which it goes on. */
struct translation {
	struct ends was;
	struct ends is;
	__u8 protocol;
	__u8 tos;
};

/* Which time conntrack's entry goes on for with this packet; TIMEOUTS: netfilter must see it. */
static __always_inline __u32 timeout_of(const struct nf_conn *entry, unsigned long status, __u8 protocol, __u8 flags)
{
	if (status & (STATUS_DYING | STATUS_HELPER | STATUS_SEQUENCE_ADJUST))
		return TIMEOUTS;
	if (protocol == IPPROTO_UDP)
		return status & STATUS_ASSURED ? UDP_ANSWERED : UDP_UNANSWERED;
	if (!(entry->proto.tcp.seen[0].flags & entry->proto.tcp.seen[1].flags & BE_LIBERAL))
		return TIMEOUTS;
	if (flags & TCP_RST)
		return TCP_RESET;
	if (flags & (TCP_SYN | TCP_FIN) || entry->proto.tcp.state != CONNTRACK_ESTABLISHED)
		return TIMEOUTS;
	return TCP_ESTABLISHED;
}

/* Where a packet is from and to after translation, as conntrack's entry says, which it keeps alive. */
static __always_inline bool is_known(struct __sk_buff *skb, struct translation *found, __u8 flags)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {};
	struct nf_conn *entry;
	__u32 *timeout, which;

	tuple.ipv4.saddr = found->was.source;
	tuple.ipv4.daddr = found->was.destination;
	tuple.ipv4.sport = found->was.source_port;
	tuple.ipv4.dport = found->was.destination_port;
	opts.netns_id = -1; /* this one */
	opts.l4proto = found->protocol;
	entry = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	if (!entry)
		return false;
	which = timeout_of(entry, entry->status, found->protocol, flags);
	timeout = bpf_map_lookup_elem(&timeouts, &which);
	if (!timeout || !*timeout) {
		bpf_ct_release(entry);
		return false;
	}
	/* What the other direction comes from is where this one goes to. */
	if (opts.dir) {
		found->is.source = entry->tuplehash[0].tuple.dst.u3.ip;
		found->is.source_port = entry->tuplehash[0].tuple.dst.u.all;
		found->is.destination = entry->tuplehash[0].tuple.src.u3.ip;
		found->is.destination_port = entry->tuplehash[0].tuple.src.u.all;
	} else {
		found->is.source = entry->tuplehash[1].tuple.dst.u3.ip;
		found->is.source_port = entry->tuplehash[1].tuple.dst.u.all;
		found->is.destination = entry->tuplehash[1].tuple.src.u3.ip;
		found->is.destination_port = entry->tuplehash[1].tuple.src.u.all;
	}
	bpf_ct_change_timeout(entry, *timeout);
	bpf_ct_release(entry);
	return true;
}

/* The translation of a packet behind its Ethernet header; false if netfilter must see it. */
static __always_inline bool translation_of(struct __sk_buff *skb, struct translation *found)
{
	struct iphdr *ip = data_of(skb) + ETH_HLEN;
	struct udphdr *ports = (void *)(ip + 1); /* of both */
	__u8 flags = 0;

	if ((void *)(ports + 1) > (void *)(long)skb->data_end)
		return false;
	if (ip->protocol != IPPROTO_TCP && (ip->protocol != IPPROTO_UDP || gso_size_of(skb)))
		return false;
	found->was.source = ip->saddr;
	found->was.destination = ip->daddr;
	found->was.source_port = ports->source;
	found->was.destination_port = ports->dest;
	found->protocol = ip->protocol;
	found->tos = ip->tos;
	if (found->protocol == IPPROTO_TCP && bpf_skb_load_bytes(skb, TRANSPORT + TCP_FLAGS, &flags, 1))
		return false;
	return is_known(skb, found, flags);
}

/* So many packets of a flow came by netfilter, the last ones just now: tells the agent, once for each doubling. */
static __always_inline void tell_grown(const struct flow_key *key, __u64 packets, __u32 last)
{
	__u64 before = packets - last;

	if (packets >= GROWN && (before ^ packets) > before)
		bpf_map_push_elem(&grown, key, 0); /* when that is full, the next doubling tells */
}

static __always_inline __u32 words(__be32 address)
{
	return (address & 0xffff) + (address >> 16);
}

static __always_inline long replace(struct __sk_buff *skb, __u8 protocol, __u32 old, __u32 new, __u64 flags)
{
	if (old == new)
		return 0;
	if (protocol == IPPROTO_TCP)
		return bpf_l4_csum_replace(skb, TRANSPORT + TCP_SUM, old, new, flags);
	/* A sum of 0 stays: the sender has none. */
	return bpf_l4_csum_replace(skb, TRANSPORT + UDP_SUM, old, new, flags | BPF_F_MARK_MANGLED_0);
}

/* One hop further, from and to other ends; false: the packet is broken and must not go on. */
static __always_inline bool translate(struct __sk_buff *skb, const struct translation *to)
{
	struct iphdr *ip = data_of(skb) + ETH_HLEN;
	struct udphdr *ports = (void *)(ip + 1);
	__u32 sum;

	if ((void *)(ports + 1) > (void *)(long)skb->data_end)
		return false;
	/* RFC 1624, equation 3; the TTL is the upper byte of its word. */
	sum = (__u16)~ip->check + words(~to->was.source) + words(to->is.source) + words(~to->was.destination) +
	      words(to->is.destination) + (__u16)~bpf_htons(0x0100);
	ip->check = ~folded(sum);
	ip->ttl--;
	ip->saddr = to->is.source;
	ip->daddr = to->is.destination;
	ports->source = to->is.source_port;
	ports->dest = to->is.destination_port;
	return !replace(skb, to->protocol, to->was.source, to->is.source, BPF_F_PSEUDO_HDR | sizeof(__be32)) &&
	       !replace(skb, to->protocol, to->was.destination, to->is.destination, BPF_F_PSEUDO_HDR | sizeof(__be32)) &&
	       !replace(skb, to->protocol, to->was.source_port, to->is.source_port, sizeof(__be16)) &&
	       !replace(skb, to->protocol, to->was.destination_port, to->is.destination_port, sizeof(__be16));
}

/* An inner packet behind its Ethernet header, on to the correspondent; NOT_OURS and untouched if netfilter must see it. */
static __always_inline int forward(struct __sk_buff *skb, __u32 virtual_interface)
{
	struct translation to = {};
	struct bpf_fib_lookup way = {};
	struct bpf_redir_neigh hop = {};

	if (!translation_of(skb, &to))
		return NOT_OURS;
	/* As the kernel asks: after the destination was translated, before the source is. */
	way.family = AF_INET;
	way.l4_protocol = to.protocol;
	way.tos = to.tos;
	way.tot_len = largest_segment(skb, ETH_HLEN);
	way.ifindex = virtual_interface;
	way.ipv4_src = to.was.source;
	way.ipv4_dst = to.is.destination;
	way.sport = to.was.source_port;
	way.dport = to.is.destination_port;
	if (bpf_fib_lookup(skb, &way, sizeof(way), 0) != BPF_FIB_LKUP_RET_SUCCESS || way.ifindex == virtual_interface)
		return NOT_OURS; /* between two hosts it goes into a tunnel again */
	if (!translate(skb, &to))
		return TC_ACT_SHOT;
	hop.nh_family = AF_INET;
	hop.ipv4_nh = way.ipv4_dst; /* a gateway by now, if there is one */
	return bpf_redirect_neigh(way.ifindex, &hop, sizeof(hop), 0);
}

/* What comes from the world, behind its Ethernet header: an answer for a host, into its tunnel. NOT_OURS and untouched if
 * netfilter must see it.
 */
static __always_inline int forward_back(struct __sk_buff *skb)
{
	__u32 which = UDP_ANSWERED, left, *timeout = bpf_map_lookup_elem(&timeouts, &which);
	struct translation to = {};
	struct flow_key key = {};
	struct tunnel *tunnel;
	struct iphdr *ip;
	struct flow *flow;

	if (!timeout || !*timeout || skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != TO_THIS_HOST ||
	    skb->vlan_present || !has_bytes(skb, ETH_HLEN + sizeof(*ip) + 8))
		return NOT_OURS;
	ip = data_of(skb) + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return NOT_OURS;
	if (ip->version != 4 || ip->ihl != 5 || bpf_ntohs(ip->tot_len) != skb->len - ETH_HLEN || ip->ttl <= 1 ||
	    ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		return NOT_OURS;
	if (!translation_of(skb, &to))
		return NOT_OURS;
	key.source = to.is.destination;
	key.destination = to.is.source;
	key.source_port = to.is.destination_port;
	key.destination_port = to.is.source_port;
	key.protocol = to.protocol;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return NOT_OURS;
	tunnel = tunnel_for(skb, &key, flow, ETH_HLEN, &left);
	if (!tunnel)
		return NOT_OURS;
	if (!translate(skb, &to))
		return TC_ACT_SHOT;
	return send(skb, flow, tunnel, to.tos, true, ETH_HLEN);
}

#endif
