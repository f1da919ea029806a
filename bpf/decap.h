/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* In: from an access interface's ingress out of a tunnel and in by the virtual interface.
 *
 * Believes an inner packet only from the other end of a tunnel, with that tunnel's virtual address, of a flow that the
 * agent has let in before. Everything else goes on to the tunnel's socket, where the agent judges, answers and counts.
 * The kernel checks the inner header's sum, and that of the transport where it matters.
 */
#ifndef UPMT_DECAP_H
#define UPMT_DECAP_H

#include "packet.h"
#ifdef SHORTCUT
#include "shortcut.h"
#endif

#define LARGEST_HEAD (PLAIN_HEADER + COOKIE_HEADER + sizeof(struct iphdr) + 8)

/* Whether this is a secret that the agent has heard before; it must see the first packet with a new one. */
static __always_inline bool is_secret_heard(const struct tunnel *tunnel, __u64 given)
{
	for (int i = 0; i < MAX_SECRETS; i++)
		if (i < tunnel->secrets && tunnel->receiving[i] == given)
			return i >= tunnel->unheard;
	return false;
}

/* RFC 6040 section 4.2, figure 4: what the ECN field inside becomes; negative when the packet must be dropped. */
static __always_inline int decapsulated_ecn(__u8 outside, __u8 inside)
{
	if (outside == 3)
		return inside ? 3 : -1;
	return outside == 1 && inside == 2 ? 1 : inside;
}

static __always_inline void write_tos(struct iphdr *ip, __u8 tos)
{
	/* RFC 1624, equation 3. */
	__u32 sum = (__u16)~ip->check + (__u16)~bpf_htons(ip->tos) + bpf_htons(tos);

	ip->tos = tos;
	ip->check = ~folded(sum);
}

/* At the anchor: answers go back where the last packet came from, but not where the flow was just moved away from. */
static __always_inline void learn(struct flow *flow, __u32 id, __u64 now)
{
	struct application *application = application_of(flow);
	__u32 present = tunnel_of(flow, application);

	if (present == id)
		return;
	if ((flow->left[0] == id || flow->left[1] == id) && now < flow->left_until)
		return;
	if (!application) {
		flow->tunnel = id;
		return;
	}
	if (present && now < application->left_until &&
	    (application->left[0] == id || application->left[1] == id ||
	     (flow->tunnel == id && flow->course != application->course)))
		return;
	if (application->tunnel == id) {
		flow->tunnel = 0;
		return;
	}
	*(volatile __u32 *)&flow->tunnel = id;
	*(volatile __u32 *)&flow->course = application->course;
}

/* How the packets of a flow come that has been moved. */
static __always_inline void watch(struct flow *flow, __u32 id, __u32 packets)
{
	__u64 now = bpf_ktime_get_ns(), before = flow->last_arrival;

	if (before && now > before && now - before > flow->gap)
		flow->gap = now - before;
	flow->last_arrival = now;
	if (id == flow->watched) {
		if (!flow->first_arrival)
			flow->first_arrival = now;
		return;
	}
	flow->last_elsewhere = now;
	if (flow->first_arrival)
		__sync_fetch_and_add(&flow->late, packets);
}

static __always_inline int decapsulate(struct __sk_buff *skb, const bool is_anchor, const __u32 link)
{
	struct flow_key key = {};
	struct counts *counts;
	struct tunnel *tunnel;
	struct udphdr *udp;
	struct flow *flow;
	struct iphdr *outer, *inner;
	struct end end = {};
	__u32 *found, id, slot, extra, length, packets = packets_in(skb);
	__u64 secret = 0, now;
	__u8 format, tos;
	void *payload;
	int ecn;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return NOT_OURS;
	if (!has_bytes(skb, link + PLAIN_HEADER + sizeof(struct iphdr) + 8))
		return NOT_OURS;
	outer = data_of(skb) + link;
	udp = (void *)(outer + 1);
	payload = udp + 1;
	if (payload + 1 > (void *)(long)skb->data_end)
		return NOT_OURS;
	if (outer->version != 4 || outer->ihl != 5 || outer->protocol != IPPROTO_UDP ||
	    outer->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		return NOT_OURS;
	/* One with a checksum is verified by the socket, unless the receiving device did it. It may also be one whose sum the
	 * kernel still has to fill in, at a place that decapsulation would shift.
	 */
	if (udp->check && bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return NOT_OURS;
	length = bpf_ntohs(udp->len);
	if (bpf_ntohs(outer->tot_len) != skb->len - link || length != skb->len - link - sizeof(*outer))
		return NOT_OURS;

	if ((*(__u8 *)payload & 0xf0) == COOKIE_TYPE) {
		struct cookie *cookie;

		if (!has_bytes(skb, link + LARGEST_HEAD))
			return NOT_OURS;
		outer = data_of(skb) + link;
		udp = (void *)(outer + 1);
		cookie = (void *)(udp + 1);
		if ((void *)(cookie + 1) > (void *)(long)skb->data_end)
			return NOT_OURS;
		__builtin_memcpy(&secret, cookie->secret, sizeof(secret));
		format = FORMAT_COOKIE;
		extra = PLAIN_HEADER + COOKIE_HEADER;
		inner = (void *)(cookie + 1);
	} else {
		format = FORMAT_PLAIN;
		extra = PLAIN_HEADER;
		inner = payload;
	}
	if ((void *)(inner + 1) + 8 > (void *)(long)skb->data_end)
		return NOT_OURS;
	if (inner->version != 4 || inner->ihl != 5)
		return NOT_OURS;

	end.remote = outer->saddr;
	end.remote_port = udp->source;
	end.local_port = udp->dest;
	end.owner = is_anchor ? inner->saddr : inner->daddr;
	found = bpf_map_lookup_elem(&ends, &end);
	if (!found)
		return leave_to_agent(UNKNOWN_END);
	id = *found;
	tunnel = bpf_map_lookup_elem(&tunnels, &id);
	if (!tunnel || tunnel->format != format || tunnel->local != outer->daddr)
		return leave_to_agent(UNKNOWN_END);
	if (!is_anchor && tunnel->interface != skb->ifindex)
		return leave_to_agent(UNKNOWN_END);
	if (format == FORMAT_COOKIE && !is_secret_heard(tunnel, secret))
		return leave_to_agent(WRONG_SECRET);

	/* Longer or shorter than it says: cut, or several merged by the receiving interface. */
	if (bpf_ntohs(inner->tot_len) != skb->len - link - extra)
		return leave_to_agent(NOT_DATA);
	if (inner->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		return leave_to_agent(FRAGMENT);
	/* Signalling and measurement; at the anchor also what would expire there. */
	if (is_anchor ? inner->daddr == tunnel->local || inner->ttl <= 1 : inner->saddr == tunnel->remote)
		return leave_to_agent(NOT_DATA);
	if (!flow_of(inner, inner + 1, &key))
		return leave_to_agent(OTHER_PROTOCOL);
	if (!is_anchor)
		reverse(&key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return leave_to_agent(UNKNOWN_FLOW);
	ecn = decapsulated_ecn(outer->tos & ECN_MASK, inner->tos & ECN_MASK);
	if (ecn < 0)
		return leave_to_agent(CONGESTION);
	tos = (inner->tos & ~ECN_MASK) | ecn;
	if (tos != inner->tos)
		write_tos(inner, tos);
	length = skb->len - link - extra;
	if (bpf_skb_adjust_room(skb, -(__s32)extra, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return leave_to_agent(NO_ROOM);

	now = bpf_ktime_get_coarse_ns();
	if (flow->watched)
		watch(flow, id, packets);
	if (is_anchor) {
		learn(flow, id, now);
		__sync_fetch_and_add(&flow->packets_out, packets);
		__sync_fetch_and_add(&flow->bytes_out, length);
	} else {
		__sync_fetch_and_add(&flow->packets_in, packets);
		__sync_fetch_and_add(&flow->bytes_in, length);
	}
	flow->last_seen = now;
	slot = tunnel->slot;
	counts = bpf_map_lookup_elem(&tunnel_counts, &slot);
	if (counts) {
		counts->packets_in += packets;
		counts->bytes_in += length;
		counts->heard = now;
	}
#ifdef SHORTCUT
	if (is_anchor) {
		int done = forward(skb, tunnel->virtual_interface);

		if (done != NOT_OURS)
			return done;
		if (key.protocol == IPPROTO_TCP)
			tell_grown(&key, flow->packets_out, packets);
	}
#endif
	return bpf_redirect(tunnel->virtual_interface, BPF_F_INGRESS);
}

#endif
