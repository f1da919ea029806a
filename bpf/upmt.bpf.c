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
	return decapsulate(skb, true, ETH_HLEN);
}

#ifdef SHORTCUT
char LICENSE[] SEC("license") = "GPL"; /* as conntrack asks of whoever uses it */
#else
char LICENSE[] SEC("license") = "Apache-2.0";
#endif
