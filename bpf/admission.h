/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the maps of admission.bpf.c hold. The Python twins are in upmt_nf/datapath/admission_layout.py; a test compares
 * every offset.
 *
 *    gate      whether flows are let in at all, as of which generation of the application rules
 *    makers    socket cookie -> who made it or told it last where to send     (written by linux/socket_record.py)
 *    verdicts  identity of a process -> application                           (written by the agent)
 *    asked     flow -> who sent its first packet, which the agent has         (read by the agent)
 *    begun     flows let in, for the agent to know
 */
#ifndef UPMT_ADMISSION_H
#define UPMT_ADMISSION_H

#include "layout.h"

#define MARK_ADMITTED 0x1100 /* as in upmt_nf/model/names.py */
#define MARK_UNANSWERED 0x1101
#define MARK_OUTER 0x1000
#define COMMAND_BYTES 16
#define ANY_SOCKET (~0ULL) /* cookies are made where a rule asks for processes; else netfilter's mark says all */

struct gate {
	__u32 generation; /* 0: closed */
	__u32 rest;       /* the application of what netfilter left unmarked, where no rule asks for the process; 0: some do */
	__u32 cgroups;    /* whether any rule asks for control groups */
	__u32 unused;
};

struct maker {
	__u32 pid;
	__u32 uid;
	__u64 made;
	__u8 command[COMMAND_BYTES];
	__u64 deed;
};

/* All that a rule may ask of a process and that may change while it has its number: a change leads to no verdict. */
struct identity {
	__u64 started; /* nanoseconds since boot */
	__u64 programs; /* how many it has executed */
	__u64 cgroups; /* a digest of all that it is in, of every hierarchy; 0 where no rule asks */
	__u32 generation;
	__u32 pid;
	__u32 uid; /* effective, as gid */
	__u32 gid;
	__u8 command[COMMAND_BYTES];
};

struct verdict {
	__u32 application;
	__u32 rule; /* its place among the rules, from 1; 0: none of them */
};

struct asked {
	struct identity who; /* pid 0: not the one who made its socket, or not known */
	__u64 socket;
};

struct begun {
	struct flow_key key;
	__u64 socket;
	__u32 generation;
	__u32 application;
	__u32 rule;
	__u32 mark; /* of the packet, our bits; 0: not marked by netfilter */
	__u32 pid;  /* 0: nobody asked */
	__u32 tos;
	__u8 command[COMMAND_BYTES];
};

#endif
