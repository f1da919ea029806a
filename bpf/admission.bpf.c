// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* A flow's first packet, let in without the agent where it is certain whose it is: on the route to the virtual interface.
 *
 * Runs for each packet that leaves by that route, between netfilter's OUTPUT and its POSTROUTING (LWT BPF). There the
 * sender is the process that runs, if it is also the one who made the packet's socket; otherwise the kernel may send
 * it on somebody's behalf. What is certain gets a mark that passes netfilter's queue by, and an entry in `flows`;
 * everything else goes the way to the agent. It never drops.
 *
 * It reads the kernel's structs, which the kernel allows to programs under the GPL only.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "admission.h"
#include "packet.h"

#define TCP_FLAGS 13
#define TCP_SYN 2
#define TCP_ACK 16
#define MULTICAST 224
#define MAX_HIERARCHIES 32
#define COMMON_BYTES 160 /* enough of struct sock_common to have the cookie in it */


#define OF_THE_KERNEL __attribute__((preserve_access_index))

typedef struct {
	__u32 val;
} kernel_id;

struct kernfs_node {
	__u64 id;
} OF_THE_KERNEL;

struct cgroup {
	struct kernfs_node *kn;
} OF_THE_KERNEL;

struct list_head {
	struct list_head *next;
} OF_THE_KERNEL;

struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
} OF_THE_KERNEL;

struct css_set {
	struct list_head cgrp_links; /* one a hierarchy, always in the same order */
} OF_THE_KERNEL;

struct cred {
	kernel_id euid;
	kernel_id egid;
} OF_THE_KERNEL;

struct task_struct {
	int tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *group_leader;
	const struct cred *real_cred;
	struct css_set *cgroups;
	char comm[COMMAND_BYTES];
} OF_THE_KERNEL;

typedef struct {
	__s64 counter;
} kernel_number;

struct sock_common {
	kernel_number skc_cookie;
} OF_THE_KERNEL;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate);
} gate SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct maker);
} makers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct identity);
	__type(value, struct verdict);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct asked);
} asked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16384);
	__type(value, struct begun);
} begun SEC(".maps");

/* The cookie of a packet's socket, or 0. No helper gives it to programs of this kind. */
static __always_inline __u64 cookie_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u8 common[COMMON_BYTES];
	__u32 at = bpf_core_field_offset(struct sock_common, skc_cookie);
	__u64 cookie;

	if (!sk || at > COMMON_BYTES - sizeof(cookie) || bpf_probe_read_kernel(common, sizeof(common), sk))
		return 0;
	__builtin_memcpy(&cookie, common + at, sizeof(cookie));
	return cookie;
}

/* FNV-1a, by words: ids of control groups are never used again. 0: it is in more of them than we look at. */
static __always_inline __u64 cgroups_of(struct task_struct *process)
{
	struct css_set *set = BPF_CORE_READ(process, cgroups);
	struct list_head *link = BPF_CORE_READ(set, cgrp_links.next);
	struct list_head *end = (void *)set + bpf_core_field_offset(struct css_set, cgrp_links);
	__u64 digest = 0xcbf29ce484222325;

	for (int i = 0; i < MAX_HIERARCHIES; i++) {
		struct cgrp_cset_link *each;

		if (link == end)
			return digest;
		each = (void *)link - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link);
		digest = (digest ^ BPF_CORE_READ(each, cgrp, kn, id)) * 0x100000001b3;
		link = BPF_CORE_READ(link, next);
	}
	return 0;
}

/* Whether the process that runs made this socket, or told it last where to send; then also who that is. */
static __always_inline bool is_sender(__u64 socket, const struct gate *now, struct identity *who)
{
	struct task_struct *process = bpf_get_current_task_btf()->group_leader;
	struct maker *maker = bpf_map_lookup_elem(&makers, &socket);

	if (!maker || maker->pid != (__u32)process->tgid)
		return false;
	who->started = process->start_boottime;
	who->programs = process->self_exec_id;
	who->generation = now->generation;
	who->pid = process->tgid;
	who->uid = process->real_cred->euid.val;
	who->gid = process->real_cred->egid.val;
	if (now->cgroups) {
		who->cgroups = cgroups_of(process);
		if (!who->cgroups)
			return false;
	}
	return !bpf_probe_read_kernel(who->command, sizeof(who->command), &process->comm);
}

/* Whether an application's packets to there can go by its tunnel without the agent. */
static __always_inline bool can_go(__u32 application, const struct flow_key *key)
{
	struct application *steered = bpf_map_lookup_elem(&applications, &application);
	struct tunnel *tunnel;
	__u32 id;

	if (!steered || !steered->tunnel)
		return false;
	id = steered->tunnel;
	tunnel = bpf_map_lookup_elem(&tunnels, &id);
	return tunnel && tunnel->format != FORMAT_AGENT && tunnel->owner == key->source &&
	       tunnel->remote != key->destination;
}

static __always_inline void let_pass(struct __sk_buff *skb, __u32 mark)
{
	skb->mark = (skb->mark & ~MARK_MASK) | mark;
}

SEC("lwt_out")
int admit(struct __sk_buff *skb)
{
	struct asked question = {};
	struct begun told = {};
	struct verdict *verdict;
	struct flow_key *key = &told.key;
	struct flow *flow, new = {};
	struct asked *before;
	struct gate *now;
	struct iphdr *ip;
	__u32 zero = 0;
	__u8 flags = 0, first;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !has_bytes(skb, sizeof(*ip) + 8))
		return BPF_OK;
	ip = data_of(skb);
	if ((void *)(ip + 1) + 8 > (void *)(long)skb->data_end)
		return BPF_OK;
	if (ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET) ||
	    !flow_of(ip, ip + 1, key))
		return BPF_OK;
	told.mark = skb->mark & MARK_MASK;
	told.tos = ip->tos;
	if (told.mark & MARK_OUTER)
		return BPF_OK;
	flow = bpf_map_lookup_elem(&flows, key);
	if (flow && !flow->socket) /* the agent's */
		return BPF_OK;
	now = bpf_map_lookup_elem(&gate, &zero);
	if (!now || !skb->sk)
		return BPF_OK;
	told.generation = now->generation;
	told.application = told.mark ? told.mark : now->rest;
	told.socket = cookie_of(skb);
	if (!told.socket)
		told.socket = ANY_SOCKET;
	if (flow && flow->socket == ANY_SOCKET && told.socket != ANY_SOCKET) /* it may be the same one */
		return BPF_OK;
	if (flow && flow->socket == told.socket &&
	    (told.socket != ANY_SOCKET || flow->application == told.application)) {
		/* When the rules have changed the agent looks at it once more, as at all others. */
		if (!now->generation || now->generation == flow->generation)
			let_pass(skb, flow->packets_in ? MARK_ADMITTED : MARK_UNANSWERED);
		return BPF_OK;
	}
	if (ip->protocol == IPPROTO_TCP &&
	    (bpf_skb_load_bytes(skb, sizeof(*ip) + TCP_FLAGS, &flags, 1) || (flags & (TCP_SYN | TCP_ACK)) != TCP_SYN))
		return BPF_OK;
	if (!now->generation)
		return BPF_OK;
	before = bpf_map_lookup_elem(&asked, key);
	if (before && before->socket == told.socket) /* the agent has a packet of it: none may overtake that */
		return BPF_OK;

	if (!told.application && is_sender(told.socket, now, &question.who)) {
		verdict = bpf_map_lookup_elem(&verdicts, &question.who);
		if (verdict) {
			told.application = verdict->application;
			told.rule = verdict->rule;
			told.pid = question.who.pid;
			__builtin_memcpy(told.command, question.who.command, sizeof(told.command));
		}
	}
	first = bpf_ntohl(key->destination) >> 24;
	if (told.application && first && first < MULTICAST && can_go(told.application, key)) {
		new.application = told.application;
		new.socket = told.socket;
		new.generation = told.generation;
		new.last_seen = bpf_ktime_get_coarse_ns();
		if (!bpf_map_update_elem(&flows, key, &new, BPF_ANY)) {
			/* When the agent is behind, it finds the flow in the map. */
			bpf_map_push_elem(&begun, &told, 0);
			let_pass(skb, MARK_UNANSWERED);
			return BPF_OK;
		}
	}
	question.socket = told.socket;
	if (told.socket != ANY_SOCKET)
		bpf_map_update_elem(&asked, key, &question, BPF_ANY);
	return BPF_OK;
}

char LICENSE[] SEC("license") = "GPL"; /* as the kernel asks of whoever reads its structs */
