/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reading IPv4 packets: whose flow, how many packets a large one stands for. */
#ifndef UPMT_PACKET_H
#define UPMT_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "maps.h"

#define AF_INET 2 /* the C library's header has it */
#define PLAIN_HEADER (sizeof(struct iphdr) + sizeof(struct udphdr))
#define COOKIE_HEADER 12
#define COOKIE_TYPE 0x10
#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET 0x1fff
#define DONT_FRAGMENT 0x4000
#define ECN_MASK 3
#define NOT_OURS TC_ACT_UNSPEC /* on to the next filter, if somebody has one behind ours, and then as without us */
#define ECHO_REPLY 0
#define ECHO_REQUEST 8

struct echo { /* linux/icmp.h drags in the C library */
	__u8 type;
	__u8 code;
	__sum16 sum;
	__be16 id;
	__be16 sequence;
};

struct cookie {
	__be16 type_and_application;
	__be16 tunnel;
	__u32 secret[2]; /* unaligned for a 64-bit word */
};

static __always_inline int leave_to_agent(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&events, &reason);

	if (count)
		(*count)++; /* one a CPU */
	return NOT_OURS;
}

static __always_inline void *data_of(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

/* Make the first `size` bytes readable; false when the packet has no such. */
static __always_inline bool has_bytes(struct __sk_buff *skb, __u32 size)
{
	if (data_of(skb) + size <= (void *)(long)skb->data_end)
		return true;
	if (skb->len < size || bpf_skb_pull_data(skb, size))
		return false;
	return data_of(skb) + size <= (void *)(long)skb->data_end;
}

/* The flow of a packet whose 8 first transport bytes are readable; false when it is the agent's business. */
static __always_inline bool flow_of(const struct iphdr *ip, const void *transport, struct flow_key *key)
{
	const struct udphdr *ports = transport;
	const struct echo *echo = transport;

	key->source = ip->saddr;
	key->destination = ip->daddr;
	key->protocol = ip->protocol;
	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		key->source_port = ports->source;
		key->destination_port = ports->dest;
		return true;
	case IPPROTO_ICMP:
		if (echo->type != ECHO_REQUEST && echo->type != ECHO_REPLY)
			return false;
		key->source_port = key->destination_port = echo->id;
		return true;
	}
	return false;
}

static __always_inline void reverse(struct flow_key *key)
{
	__be32 address = key->source;
	__be16 port = key->source_port;

	key->source = key->destination;
	key->destination = address;
	key->source_port = key->destination_port;
	key->destination_port = port;
}

/* What a flow goes with; none: it goes by itself. */
static __always_inline struct application *application_of(const struct flow *flow)
{
	__u32 number = flow->application;

	return number ? bpf_map_lookup_elem(&applications, &number) : NULL;
}

/* The tunnel of a flow: its own, if it is not older than the last move of its application, else that one's. */
static __always_inline __u32 tunnel_of(const struct flow *flow, const struct application *application)
{
	__u32 own = flow->tunnel;

	if (!application || (own && flow->course == application->course))
		return own;
	return application->tunnel;
}

/* Bytes of payload of the packets that a large one will be cut into; 0: it is not large. */
static __always_inline __u32 gso_size_of(struct __sk_buff *skb)
{
	/* Else the compiler shares the field's address among several places, and the verifier wants the context itself. */
	barrier_var(skb);
	return skb->gso_size;
}

/* How many packets on the wire this one stands for. */
static __always_inline __u32 packets_in(struct __sk_buff *skb)
{
	__u32 segment = gso_size_of(skb);

	return segment ? (skb->len + segment - 1) / segment : 1;
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

#endif
