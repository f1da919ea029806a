// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The fast plane's programs, one a hook (clsact). Maps and layouts are shared by all of them: layout.h. */
#include "decap.h"
#include "encap.h"

SEC("tc")
int host_out(struct __sk_buff *skb)
{
	return encapsulate(skb, false);
}

SEC("tc")
int host_in(struct __sk_buff *skb)
{
	return decapsulate(skb, false, ETH_HLEN);
}

SEC("tc")
int anchor_out(struct __sk_buff *skb)
{
	return encapsulate(skb, true);
}

SEC("tc")
int anchor_in(struct __sk_buff *skb)
{
	int done = decapsulate(skb, true, ETH_HLEN);

#ifdef SHORTCUT
	if (done == NOT_OURS)
		return forward_back(skb);
#endif
	return done;
}

static __always_inline void apply(const struct flow_change *change, struct flow *flow)
{
	if (change->begins_watch) {
		flow->last_arrival = change->last_arrival;
		flow->gap = 0;
		flow->late = 0;
		flow->first_arrival = 0;
		flow->last_elsewhere = 0;
	}
	flow->watched = change->watched;
	if (change->keeps_way)
		return;
	flow->left[0] = change->left[0];
	flow->left[1] = change->left[1];
	flow->left_until = change->left_until;
	flow->course = change->course;
	flow->tunnel = change->tunnel;
	flow->application = change->application;
}

/* Run by the agent, not by packets: `struct flow_change`s behind an Ethernet header. How many of the flows are there. */
SEC("tc")
int change_flows(struct __sk_buff *skb)
{
	int found = 0;

	for (int i = 0; i < MOST_CHANGES; i++) {
		struct flow_change change;
		struct flow *flow;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + i * sizeof(change), &change, sizeof(change)))
			break;
		flow = bpf_map_lookup_elem(&flows, &change.key);
		if (!flow)
			continue;
		apply(&change, flow);
		found++;
	}
	return found;
}

#ifdef SHORTCUT
char LICENSE[] SEC("license") = "GPL"; /* as conntrack asks of whoever uses it */
#else
char LICENSE[] SEC("license") = "Apache-2.0";
#endif
