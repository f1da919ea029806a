/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the maps hold. The Python twins are in upmt_nf/datapath/fast_layout.py; a test compares every offset.
 *
 *    flows         flow -> application, or a tunnel of its own          (the mobile host's view: source = virtual address)
 *    applications  application -> tunnel: moving an application is one write here. At the anchor those that hosts have
 *                  named, under numbers of its own; flows of none have 0
 *    tunnels       tunnel id -> what its outer packets look like
 *    names         application -> what the agent calls it, for the agent that comes after it; not read here
 *    ends          where a tunnel packet comes from and whose it is -> tunnel id
 *    tunnel_counts by `slot` of a tunnel, one a CPU
 *    events        by `enum event`, one a CPU
 */
#ifndef UPMT_LAYOUT_H
#define UPMT_LAYOUT_H

#include <linux/types.h>

#define MAX_APPLICATIONS 4096
#define NAMED_BYTES 1024
#define MAX_SECRETS 8
#define MARK_MASK 0x1fff /* as in upmt_nf/model/names.py */

enum format { FORMAT_AGENT = 0, FORMAT_PLAIN = 1, FORMAT_COOKIE = 2 }; /* AGENT: the agent alone can do it */

struct flow_key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 zero[3];
};

struct flow {
	__u32 application;
	__u32 tunnel;     /* of its own: pinned at the host, learnt at the anchor; 0: the application's ... */
	__u32 course;     /* ... and also the application's when it has another course than this */
	__u32 watched;    /* how its packets come is looked at, since it was moved to this tunnel; 0: it is not */
	__u32 left[2];    /* at the anchor: explicitly moved away from these, so late packets on them teach nothing ... */
	__u64 left_until; /* ... until then, in nanoseconds of CLOCK_MONOTONIC */
	__u64 last_seen;
	__u64 packets_out; /* towards the correspondent, at both ends */
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 socket;       /* at the host: the cookie of its socket, when the kernel itself let it in ... */
	__u64 last_arrival; /* while watched, in nanoseconds of CLOCK_MONOTONIC */
	__u64 gap;          /* the longest time between two packets, nanoseconds */
	__u64 first_arrival;  /* by the watched tunnel, likewise; 0: none came yet */
	__u64 last_elsewhere; /* the last that came by another one, likewise */
	__u32 late;         /* packets that came by another tunnel after the first by the watched one */
	__u32 generation;   /* ... by the application rules of that generation (admission.h) */
};

/* Read by several words: first what late packets are judged by, then where to, in one word with the course. */
struct application {
	__u32 left[2];    /* at the anchor, as those of a flow ... */
	__u64 left_until; /* ... and until then no flow goes back to what it had learnt before the move */
	__u32 tunnel;
	__u32 course;     /* counts the moves at the anchor: what a flow learnt before the last one counts no more */
};

/* What `change_flows` is given, up to MOST_CHANGES of them: flows are changed in place, so that no count is lost. */
#define MOST_CHANGES 16
struct flow_change {
	struct flow_key key;
	__u32 application;
	__u32 tunnel;
	__u32 course;
	__u32 watched;
	__u32 left[2];
	__u64 left_until;
	__u64 last_arrival; /* with `begins_watch` */
	__u32 begins_watch; /* forget what was seen before */
	__u32 keeps_way;    /* only what is watched changes */
};

struct tunnel {
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__be32 owner;            /* the virtual address */
	__u32 interface;         /* by which outer packets leave; at the host also the only one by which they come */
	__u32 virtual_interface; /* by which inner packets arrive */
	__u32 mark;              /* of outer packets */
	__u32 mtu;               /* the largest inner packet */
	__u32 slot;
	__u16 sum;      /* of the outer IP header's constant words, not yet inverted, as the CPU reads 16-bit words */
	__u8 format;
	__u8 unheard; /* so many of `receiving` are the other end's sign that it has new keys: the agent must see it */
	__be16 id;       /* lower 16 bits of the tunnel's id, as the cookie format writes them */
	__u16 secrets;   /* how many of `receiving` are valid */
	__be32 next_hop; /* of outer packets, where the agent knows it; 0: as the kernel's routes say */
	__u64 sending;   /* secrets of the cookie format, in the bytes' own order */
	__u64 receiving[MAX_SECRETS];
};

struct named {
	__u8 said[NAMED_BYTES]; /* JSON, filled up with zeros */
};

struct end {
	__be32 remote;
	__be32 owner;
	__be16 remote_port;
	__be16 local_port;
};

struct counts {
	__u64 packets_out; /* into the tunnel */
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 heard;       /* last packet out of the tunnel, nanoseconds of CLOCK_MONOTONIC */
};

/* What is in `timeouts`, which only the programs with the shortcut have. */
enum timeout { UDP_UNANSWERED, UDP_ANSWERED, TCP_ESTABLISHED, TCP_RESET, TIMEOUTS };

/* Why a packet was left to the agent. */
enum event {
	UNKNOWN_FLOW,
	NO_TUNNEL,
	TOO_LARGE,
	FRAGMENT,
	OTHER_PROTOCOL,
	UNKNOWN_END,
	NOT_DATA,
	WRONG_SECRET,
	CONGESTION,
	NO_ROOM,
	SEVERAL_DATAGRAMS,
	EVENTS,
};

#endif
