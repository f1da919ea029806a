/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The anchor's shortcut: datagrams out of a tunnel whose flow conntrack knows are translated and forwarded right here, as
 * conntrack's entry and the routes say. They pass neither netfilter's rules nor the virtual interface.
 *
 * For UDP, of which conntrack keeps a time and nothing else: a TCP that it does not see is out of its window. The kernel
 * lends its conntrack (net/netfilter/nf_conntrack_bpf.c, Linux 6.0) to programs under the GPL only.
 */
#ifndef UPMT_SHORTCUT_H
#define UPMT_SHORTCUT_H

#include "packet.h"

#define STATUS_ASSURED (1 << 2) /* enum ip_conntrack_status, linux/netfilter/nf_conntrack_common.h */
#define STATUS_DYING (1 << 9)
#define STATUS_HELPER (1 << 13)
#define UDP_SUM_AT (ETH_HLEN + sizeof(struct iphdr) + 6)
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

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
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

/* Where a datagram that comes from and goes to `ends` is from and to after translation; keeps conntrack's entry alive. */
static __always_inline bool translated(struct __sk_buff *skb, const struct ends *ends, struct ends *made)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {};
	struct nf_conn *entry;
	__u32 *timeout, which;
	unsigned long status;
	bool is_usable;

	tuple.ipv4.saddr = ends->source;
	tuple.ipv4.daddr = ends->destination;
	tuple.ipv4.sport = ends->source_port;
	tuple.ipv4.dport = ends->destination_port;
	opts.netns_id = -1; /* this one */
	opts.l4proto = IPPROTO_UDP;
	entry = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	if (!entry)
		return false;
	status = entry->status;
	which = !!(status & STATUS_ASSURED);
	timeout = bpf_map_lookup_elem(&udp_timeouts, &which);
	is_usable = !(status & (STATUS_DYING | STATUS_HELPER)) && timeout && *timeout;
	if (is_usable) {
		/* What the other direction comes from is where this one goes to. */
		if (opts.dir) {
			made->source = entry->tuplehash[0].tuple.dst.u3.ip;
			made->source_port = entry->tuplehash[0].tuple.dst.u.all;
			made->destination = entry->tuplehash[0].tuple.src.u3.ip;
			made->destination_port = entry->tuplehash[0].tuple.src.u.all;
		} else {
			made->source = entry->tuplehash[1].tuple.dst.u3.ip;
			made->source_port = entry->tuplehash[1].tuple.dst.u.all;
			made->destination = entry->tuplehash[1].tuple.src.u3.ip;
			made->destination_port = entry->tuplehash[1].tuple.src.u.all;
		}
		bpf_ct_change_timeout(entry, *timeout);
	}
	bpf_ct_release(entry);
	return is_usable;
}

static __always_inline __u32 words(__be32 address)
{
	return (address & 0xffff) + (address >> 16);
}

static __always_inline long replace(struct __sk_buff *skb, __u32 old, __u32 new, __u64 flags)
{
	/* A sum of 0 stays: the sender has none. */
	return old == new ? 0 : bpf_l4_csum_replace(skb, UDP_SUM_AT, old, new, flags | BPF_F_MARK_MANGLED_0);
}

/* An inner datagram behind its Ethernet header, on to the correspondent; NOT_OURS and untouched if netfilter must see it. */
static __always_inline int take_shortcut(struct __sk_buff *skb, __u32 virtual_interface)
{
	struct bpf_fib_lookup way = {};
	struct bpf_redir_neigh hop = {};
	struct ends ends, made;
	struct ethhdr *link = data_of(skb);
	struct iphdr *ip = (void *)(link + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 sum;

	if ((void *)(udp + 1) > (void *)(long)skb->data_end || skb->gso_size || ip->protocol != IPPROTO_UDP)
		return NOT_OURS;
	ends.source = ip->saddr;
	ends.destination = ip->daddr;
	ends.source_port = udp->source;
	ends.destination_port = udp->dest;
	way.family = AF_INET;
	way.l4_protocol = IPPROTO_UDP;
	way.sport = udp->source;
	way.tot_len = bpf_ntohs(ip->tot_len);
	way.tos = ip->tos;
	if (!translated(skb, &ends, &made))
		return NOT_OURS;
	/* As the kernel asks: after the destination was translated, before the source is. */
	way.ifindex = virtual_interface;
	way.ipv4_src = ends.source;
	way.ipv4_dst = made.destination;
	way.dport = made.destination_port;
	if (bpf_fib_lookup(skb, &way, sizeof(way), 0) != BPF_FIB_LKUP_RET_SUCCESS || way.ifindex == virtual_interface)
		return NOT_OURS; /* between two hosts it goes into a tunnel again */

	link = data_of(skb);
	ip = (void *)(link + 1);
	udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > (void *)(long)skb->data_end)
		return NOT_OURS;
	/* RFC 1624, equation 3; the TTL is the upper byte of its word. */
	sum = (__u16)~ip->check + words(~ends.source) + words(made.source) + words(~ends.destination) +
	      words(made.destination) + (__u16)~bpf_htons(0x0100);
	ip->check = ~folded(sum);
	ip->ttl--;
	ip->saddr = made.source;
	ip->daddr = made.destination;
	udp->source = made.source_port;
	udp->dest = made.destination_port;
	if (replace(skb, ends.source, made.source, BPF_F_PSEUDO_HDR | sizeof(ends.source)) ||
	    replace(skb, ends.destination, made.destination, BPF_F_PSEUDO_HDR | sizeof(ends.destination)) ||
	    replace(skb, ends.source_port, made.source_port, sizeof(ends.source_port)) ||
	    replace(skb, ends.destination_port, made.destination_port, sizeof(ends.destination_port)))
		return TC_ACT_SHOT;
	hop.nh_family = AF_INET;
	hop.ipv4_nh = way.ipv4_dst; /* a gateway by now, if there is one */
	return bpf_redirect_neigh(way.ifindex, &hop, sizeof(hop), 0);
}

#endif
