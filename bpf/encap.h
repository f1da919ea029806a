/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Out: from the virtual interface's egress into a tunnel and on to its access interface; by the anchor's shortcut (shortcut.h)
 * also from the interface by which an answer came.
 *
 * What this cannot do goes on to the virtual interface as if there were no program, where the agent reads it.
 * The virtual interface is a tun: its packets have no Ethernet header.
 */
#ifndef UPMT_ENCAP_H
#define UPMT_ENCAP_H

#include "packet.h"

#define WHOLE_WITH_HEADERS \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)

struct outer {
	struct iphdr ip;
	struct udphdr udp;
};

/* The largest packet on the wire that a large one, of TCP, will be cut into; a packet that is none is its own. */
static __always_inline __u32 largest_segment(struct __sk_buff *skb, const __u32 link)
{
	__u32 segment = gso_size_of(skb);
	__u8 offset;

	if (!segment)
		return skb->len - link;
	if (bpf_skb_load_bytes(skb, link + sizeof(struct iphdr) + 12, &offset, 1))
		return ~0U;
	return sizeof(struct iphdr) + (offset >> 4) * 4 + segment;
}

static __always_inline __u32 headers_of(const struct tunnel *tunnel)
{
	return tunnel->format == FORMAT_COOKIE ? PLAIN_HEADER + COOKIE_HEADER : PLAIN_HEADER;
}

/* RFC 2003 section 3.1: our own TTL, DF set. RFC 6040 section 4.1: DSCP and ECN as inside. */
static __always_inline void write_outer(struct outer *outer, const struct tunnel *tunnel, __u16 length, __u8 tos)
{
	__u32 sum;

	outer->ip.version = 4;
	outer->ip.ihl = 5;
	outer->ip.tos = tos;
	outer->ip.tot_len = bpf_htons(length);
	outer->ip.id = 0; /* never fragmented, so it need not be unique: RFC 6864 section 4.1 */
	outer->ip.frag_off = bpf_htons(DONT_FRAGMENT);
	outer->ip.ttl = 64;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.saddr = tunnel->local;
	outer->ip.daddr = tunnel->remote;
	sum = tunnel->sum + outer->ip.tot_len + bpf_htons(tos);
	outer->ip.check = ~folded(sum);
	outer->udp.source = tunnel->local_port;
	outer->udp.dest = tunnel->remote_port;
	outer->udp.len = bpf_htons(length - sizeof(outer->ip));
	outer->udp.check = 0; /* the inner packet has its own: RFC 768, as RFC 7348 section 5 */
}

/* The tunnel of a flow, if a packet of it fits; else a reason to leave it to the agent in `left`. */
static __always_inline struct tunnel *tunnel_for(struct __sk_buff *skb, const struct flow_key *key, const struct flow *flow,
						 const __u32 link, __u32 *left)
{
	__u32 id = tunnel_of(flow, application_of(flow));
	struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &id);

	*left = NO_TUNNEL;
	if (!tunnel || tunnel->format == FORMAT_AGENT || tunnel->owner != key->source)
		return NULL;
	*left = TOO_LARGE;
	if (largest_segment(skb, link) > tunnel->mtu || skb->len - link + headers_of(tunnel) > 0xffff)
		return NULL;
	return tunnel;
}

/* An inner packet, behind its Ethernet header if `link` has room for one, on its way. */
static __always_inline int send(struct __sk_buff *skb, struct flow *flow, struct tunnel *tunnel, __u8 tos,
				const bool is_anchor, const __u32 link)
{
	__u32 extra = headers_of(tunnel), slot = tunnel->slot, length = skb->len - link, packets = packets_in(skb);
	struct counts *counts;
	struct outer *outer;

	if (bpf_skb_adjust_room(skb, extra, BPF_ADJ_ROOM_MAC, WHOLE_WITH_HEADERS))
		return link ? TC_ACT_SHOT : leave_to_agent(NO_ROOM);

	/* From here on it is no inner packet any more: it leaves by the tunnel, or it is lost. */
	/* An Ethernet header of zeros: bpf_redirect_neigh wants one to replace, and a tun has none. */
	if (!link && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_ACT_SHOT;
	outer = data_of(skb) + ETH_HLEN;
	if ((void *)(outer + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	write_outer(outer, tunnel, length + extra, tos);
	/* Where the sum of a whole packet came with it; on its way out of this host nothing has one. */
	if (link)
		bpf_csum_update(skb, bpf_csum_diff(NULL, 0, (void *)outer, sizeof(*outer), 0));
	if (tunnel->format == FORMAT_COOKIE) {
		struct cookie *cookie = (void *)(outer + 1);

		if ((void *)(cookie + 1) > (void *)(long)skb->data_end)
			return TC_ACT_SHOT;
		cookie->type_and_application = bpf_htons(COOKIE_TYPE << 8);
		cookie->tunnel = tunnel->id;
		__builtin_memcpy(cookie->secret, &tunnel->sending, sizeof(cookie->secret));
		if (link)
			bpf_csum_update(skb, bpf_csum_diff(NULL, 0, (void *)cookie, sizeof(*cookie), 0));
	}
	if (is_anchor) {
		__sync_fetch_and_add(&flow->packets_in, packets);
		__sync_fetch_and_add(&flow->bytes_in, length);
	} else {
		__sync_fetch_and_add(&flow->packets_out, packets);
		__sync_fetch_and_add(&flow->bytes_out, length);
	}
	flow->last_seen = bpf_ktime_get_coarse_ns();
	counts = bpf_map_lookup_elem(&tunnel_counts, &slot);
	if (counts) {
		counts->packets_out += packets;
		counts->bytes_out += length;
	}
	skb->mark = (skb->mark & ~MARK_MASK) | tunnel->mark;
	if (tunnel->next_hop) {
		struct bpf_redir_neigh hop = {}; /* all of it: without CAP_PERFMON no byte may be left as it was */
		struct bpf_tunnel_key none = {};

		hop.nh_family = AF_INET;
		hop.ipv4_nh = tunnel->next_hop;
		/* The packet still has its route by the virtual interface, and would go that way after it has waited for
		 * the next hop's address. Nothing but this takes it off.
		 */
		bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
		return bpf_redirect_neigh(tunnel->interface, &hop, sizeof(hop), 0);
	}
	return bpf_redirect_neigh(tunnel->interface, NULL, 0, 0);
}

static __always_inline int encapsulate(struct __sk_buff *skb, const bool is_anchor)
{
	struct flow_key key = {};
	struct tunnel *tunnel;
	struct iphdr *ip;
	struct flow *flow;
	__u32 left;
	__u8 tos;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return leave_to_agent(OTHER_PROTOCOL);
	if (!has_bytes(skb, sizeof(struct iphdr) + 8))
		return leave_to_agent(OTHER_PROTOCOL);
	ip = data_of(skb);
	if ((void *)(ip + 1) + 8 > (void *)(long)skb->data_end)
		return leave_to_agent(OTHER_PROTOCOL);
	if (ip->version != 4 || ip->ihl != 5 || bpf_ntohs(ip->tot_len) != skb->len)
		return leave_to_agent(OTHER_PROTOCOL);
	if (ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		return leave_to_agent(FRAGMENT);
	if (!flow_of(ip, ip + 1, &key))
		return leave_to_agent(OTHER_PROTOCOL);
	/* UDP_SEGMENT: the kernel at the other end would not cut what was in a tunnel before. Here it cuts in front of the tun. */
	if (gso_size_of(skb) && ip->protocol != IPPROTO_TCP)
		return leave_to_agent(SEVERAL_DATAGRAMS);
	tos = ip->tos;
	if (is_anchor)
		reverse(&key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return leave_to_agent(UNKNOWN_FLOW);
	tunnel = tunnel_for(skb, &key, flow, 0, &left);
	if (!tunnel)
		return leave_to_agent(left);
	return send(skb, flow, tunnel, tos, is_anchor, 0);
}

#endif
