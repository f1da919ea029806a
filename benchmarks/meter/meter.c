/* Packets out, packets in, and when: the senders and receivers of the benchmarks, cheap enough not to be the limit.
 *
 *   meter sink PORT                                          counts numbered packets; asked over stdin
 *   meter blast ADDRESS PORT BOUND BYTES RATE SECONDS TRIAL  sends them; RATE 0 is as fast as can be
 *   meter echo ADDRESS PORT                                  polls and sends back
 *   meter ask ADDRESS PORT BOUND SECONDS                     one request at a time; prints each time in ns
 *   meter answer PORT LOG                                    a stream's far end: records, and answers with its own numbers
 *   meter talk ADDRESS PORT BOUND FLOWS RATE SECONDS LOG     a stream's near end; FLOWS spread over sockets and addresses
 *
 * BOUND is the source address, 0.0.0.0 for the kernel's choice. Times are CLOCK_MONOTONIC, the same in all namespaces.
 * Receivers nap rather than block: a receiver that blocks measures how fast a core wakes, not the tunnel.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 32
#define LARGEST 2048
#define BUFFER (64 << 20)
#define NAP 100000 /* ns */
#define SECOND 1000000000ull
#define MAX_SOCKETS 8
#define FIRST_PORT 40000 /* of talk's sockets: another stream has the same flows */
#define OPENING 0xffffffffu  /* the number of packets that only make flows known */
#define OPENING_RATE 20000   /* flows a second */
#define OPENING_TIME (15 * SECOND)

struct numbered { uint32_t number, flow; };            /* what a packet of the stream carries, and a packet of a trial */
struct record { uint64_t at; uint32_t number, flow; }; /* one line of a log; read by stream_log.py */

static volatile sig_atomic_t ended;
static void end(int signal) { (void)signal; ended = 1; }

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static void nap_until(uint64_t when)
{
	struct timespec t = { when / SECOND, when % SECOND };
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	if (inet_pton(AF_INET, text, &a.sin_addr) != 1) {
		fprintf(stderr, "no IPv4 address: %s\n", text);
		exit(2);
	}
	return a;
}

static int udp_socket(const char *bound, int port)
{
	int one = 1, size = BUFFER;
	struct sockaddr_in a = address(bound, port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0)
		fail("bind");
	return fd;
}

/* A batch of packets of one size: buffers, vectors, headers. */
struct batch {
	struct mmsghdr headers[BATCH];
	struct iovec vectors[BATCH];
	struct sockaddr_in peers[BATCH];
	char bytes[BATCH][LARGEST];
	char control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
};

static struct batch *new_batch(size_t size, int with_peers, int with_control)
{
	struct batch *b = calloc(1, sizeof *b);
	if (!b)
		fail("calloc");
	for (int i = 0; i < BATCH; i++) {
		struct msghdr *h = &b->headers[i].msg_hdr;
		b->vectors[i] = (struct iovec){ b->bytes[i], size };
		h->msg_iov = &b->vectors[i];
		h->msg_iovlen = 1;
		if (with_peers) {
			h->msg_name = &b->peers[i];
			h->msg_namelen = sizeof b->peers[i];
		}
		if (with_control) {
			h->msg_control = b->control[i];
			h->msg_controllen = sizeof b->control[i];
		}
	}
	return b;
}

/* Send all of them; what a full queue refuses counts as sent, and so as lost. */
static void send_batch(int fd, struct batch *b, int count)
{
	for (int done = 0; done < count;) {
		int sent = sendmmsg(fd, b->headers + done, count - done, 0);
		done += sent > 0 ? sent : 1;
	}
}

static int sink(int port)
{
	int fd = udp_socket("0.0.0.0", port);
	struct batch *b = new_batch(LARGEST, 0, 0);
	struct pollfd orders = { .fd = 0, .events = POLLIN };
	uint32_t trial = 0;
	uint64_t count = 0;
	puts("ready");
	fflush(stdout);
	while (!ended) {
		int got = recvmmsg(fd, b->headers, BATCH, MSG_DONTWAIT, NULL);
		for (int i = 0; i < got; i++) {
			struct numbered n;
			memcpy(&n, b->bytes[i], sizeof n);
			count += n.flow == trial;
		}
		if (got == BATCH)
			continue;
		if (poll(&orders, 1, 0) > 0) { /* "NUMBER": a new trial; "?": how many of it came */
			char line[64];
			if (!fgets(line, sizeof line, stdin))
				break;
			if (line[0] != '?') {
				trial = strtoul(line, NULL, 10);
				count = 0;
			}
			printf("%llu\n", (unsigned long long)count);
			fflush(stdout);
		}
		nap_until(now() + 5 * NAP);
	}
	return 0;
}

static int blast(char **words)
{
	struct sockaddr_in to = address(words[0], atoi(words[1]));
	size_t size = atoi(words[3]);
	double rate = atof(words[4]);
	uint64_t length = atof(words[5]) * SECOND, sent = 0;
	uint32_t trial = strtoul(words[6], NULL, 10);
	struct batch *b = new_batch(size, 0, 0);
	int fd = udp_socket(words[2], 0);

	if (size < sizeof(struct numbered) || size > LARGEST || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
		fail("blast");
	/* One of no trial first: what a tunnel does once for each new flow is not what is measured. */
	send_batch(fd, b, 1);
	nap_until(now() + 500 * NAP);
	uint64_t start = now(), time = start;
	while (time - start < length) {
		uint64_t due = rate > 0 ? (time - start) * rate / SECOND + 1 : sent + BATCH;
		while (sent < due) {
			int count = due - sent < BATCH ? due - sent : BATCH;
			for (int i = 0; i < count; i++) {
				struct numbered n = { sent + i, trial };
				memcpy(b->bytes[i], &n, sizeof n);
			}
			send_batch(fd, b, count);
			sent += count;
			if (now() - start >= length)
				break;
		}
		if (rate > 0)
			nap_until(now() + NAP);
		time = now();
	}
	printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent, (time - start) / 1e9);
	return 0;
}

static int echo(const char *bound, int port)
{
	char bytes[LARGEST];
	int fd = udp_socket(bound, port);
	puts("ready");
	fflush(stdout);
	while (!ended) {
		struct sockaddr_in from;
		socklen_t length = sizeof from;
		ssize_t got = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
		if (got >= 0)
			sendto(fd, bytes, got, 0, (struct sockaddr *)&from, length);
		else
			sched_yield(); /* the tunnel's daemons come first */
	}
	return 0;
}

static int ask(char **words)
{
	struct sockaddr_in to = address(words[0], atoi(words[1]));
	int fd = udp_socket(words[2], 0);
	uint64_t length = atof(words[3]) * SECOND, last = now() + 3 * SECOND;
	int is_known = 0; /* the first answer only begins it: a tunnel may have to learn a flow */
	char bytes[64] = { 0 };
	if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
		fail("connect");
	for (uint32_t number = 0; now() < last && !ended; number++) {
		struct numbered n = { number, 0 }, back = { OPENING, 0 };
		uint64_t began = now(), time;
		memcpy(bytes, &n, sizeof n);
		send(fd, bytes, sizeof bytes, 0);
		do {
			char answer[LARGEST];
			if (recv(fd, answer, sizeof answer, MSG_DONTWAIT) >= (ssize_t)sizeof back)
				memcpy(&back, answer, sizeof back);
			else
				sched_yield();
			time = now();
		} while (back.number != number && time - began < SECOND / 10);
		if (back.number == number && !is_known) {
			is_known = 1;
			last = time + length;
		} else if (back.number == number)
			printf("%llu\n", (unsigned long long)(time - began));
		nap_until(time + NAP);
	}
	return 0;
}

/* A growing list of records, written when all is over. */
struct log { struct record *records; size_t count, room; };

static void note(struct log *log, uint64_t at, uint32_t number, uint32_t flow)
{
	if (log->count == log->room) {
		log->room = log->room ? 2 * log->room : 1 << 20;
		log->records = realloc(log->records, log->room * sizeof *log->records);
		if (!log->records)
			fail("realloc");
	}
	log->records[log->count++] = (struct record){ at, number, flow };
}

static void write_log(const struct log *log, const char *path, const char *suffix)
{
	char name[4096];
	snprintf(name, sizeof name, "%s%s", path, suffix);
	FILE *file = fopen(name, "wb");
	if (!file || fwrite(log->records, sizeof *log->records, log->count, file) != log->count || fclose(file) != 0)
		fail(name);
}

static int answer(int port, const char *path)
{
	int fd = udp_socket("0.0.0.0", port), one = 1;
	struct batch *b = new_batch(LARGEST, 1, 1);
	struct log came = { 0 };
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one); /* answers leave from the address that was asked */
	puts("ready");
	fflush(stdout);
	while (!ended) {
		for (int i = 0; i < BATCH; i++) {
			b->vectors[i].iov_len = LARGEST;
			b->headers[i].msg_hdr.msg_controllen = sizeof b->control[i];
			b->headers[i].msg_hdr.msg_namelen = sizeof b->peers[i];
		}
		int got = recvmmsg(fd, b->headers, BATCH, MSG_DONTWAIT, NULL);
		uint64_t time = now();
		for (int i = 0; i < got; i++) {
			struct numbered n;
			struct in_pktinfo info;
			memcpy(&n, b->bytes[i], sizeof n);
			if (n.number != OPENING) {
				note(&came, time, n.number, n.flow);
				n.number = came.count - 1;
				memcpy(b->bytes[i], &n, sizeof n);
			}
			b->vectors[i].iov_len = b->headers[i].msg_len;
			/* The interface is left to the routes; the kernel gave the address to answer from. */
			memcpy(&info, CMSG_DATA((struct cmsghdr *)b->control[i]), sizeof info);
			info.ipi_ifindex = 0;
			info.ipi_spec_dst = info.ipi_addr;
			memcpy(CMSG_DATA((struct cmsghdr *)b->control[i]), &info, sizeof info);
		}
		if (got > 0)
			send_batch(fd, b, got);
		if (got < BATCH)
			nap_until(now() + NAP);
	}
	write_log(&came, path, ".there");
	return 0;
}

struct talk { int sockets[MAX_SOCKETS], socket_count; struct sockaddr_in to; uint32_t flows; char *answered; struct log sent, came; };

static void address_flow(const struct talk *t, struct sockaddr_in *peer, uint32_t flow)
{
	*peer = t->to;
	peer->sin_addr.s_addr = htonl(ntohl(t->to.sin_addr.s_addr) + flow / t->socket_count);
}

/* The packets of `count` flows from `flow` on, each by its socket; `number` is that of the first, or OPENING. */
static void say(struct talk *t, struct batch *b, uint32_t flow, uint32_t number, int count)
{
	for (int s = 0; s < t->socket_count; s++) {
		int filled = 0;
		uint64_t time = now();
		for (int i = 0; i < count; i++) {
			uint32_t f = (flow + i) % t->flows;
			struct numbered n = { number == OPENING ? OPENING : number + i, f };
			if (f % t->socket_count != (uint32_t)s || (number == OPENING && t->answered[f]))
				continue;
			memcpy(b->bytes[filled], &n, sizeof n);
			address_flow(t, &b->peers[filled], f);
			if (number != OPENING)
				note(&t->sent, time, n.number, f);
			filled++;
		}
		send_batch(t->sockets[s], b, filled);
	}
}

static void listen_to_all(struct talk *t, struct batch *b)
{
	for (int s = 0; s < t->socket_count; s++)
		for (int got = BATCH; got == BATCH;) {
			got = recvmmsg(t->sockets[s], b->headers, BATCH, MSG_DONTWAIT, NULL);
			uint64_t time = now();
			for (int i = 0; i < got; i++) {
				struct numbered n;
				memcpy(&n, b->bytes[i], sizeof n);
				if (n.flow >= t->flows)
					continue;
				t->answered[n.flow] = 1;
				if (n.number != OPENING)
					note(&t->came, time, n.number, n.flow);
			}
		}
}

/* Make every flow known to the tunnel before the stream begins; gives how many have been answered. */
static uint32_t open_flows(struct talk *t, struct batch *out, struct batch *in)
{
	uint64_t began = now(), paced = began;
	uint32_t known = 0;
	while (known < t->flows && !ended && now() - began < OPENING_TIME) {
		for (uint32_t f = 0; f < t->flows; f += BATCH) {
			int unknown = 0, count = t->flows - f < BATCH ? t->flows - f : BATCH;
			for (int i = 0; i < count; i++)
				unknown += !t->answered[f + i];
			if (!unknown)
				continue;
			say(t, out, f, OPENING, count);
			listen_to_all(t, in);
			nap_until(paced = (paced > now() ? paced : now()) + unknown * SECOND / OPENING_RATE);
		}
		uint64_t until = now() + SECOND / 4;
		for (known = 0; known < t->flows && now() < until;) {
			listen_to_all(t, in);
			nap_until(now() + 5 * NAP);
			known = 0;
			for (uint32_t f = 0; f < t->flows; f++)
				known += t->answered[f];
		}
	}
	return known;
}

static int talk(char **words)
{
	static struct talk t;
	t.to = address(words[0], atoi(words[1]));
	t.flows = strtoul(words[3], NULL, 10);
	t.socket_count = t.flows < MAX_SOCKETS ? 1 : MAX_SOCKETS;
	t.answered = calloc(t.flows, 1);
	double rate = atof(words[4]);
	uint64_t length = atof(words[5]) * SECOND;
	struct batch *out = new_batch(64, 1, 0), *in = new_batch(LARGEST, 0, 0);
	if (!t.answered)
		fail("calloc");
	for (int s = 0; s < t.socket_count; s++)
		t.sockets[s] = udp_socket(words[2], FIRST_PORT + s);

	uint64_t began = now();
	uint32_t known = open_flows(&t, out, in);
	printf("{\"known\": %u, \"seconds\": %.3f}\n", known, (now() - began) / 1e9);
	fflush(stdout);

	uint64_t start = now(), sent = 0;
	while (!ended && now() - start < length) {
		/* Never more than 5 ms of packets at once: a sender that was held up must not look like a burst. */
		uint64_t due = (now() - start) * rate / SECOND + 1, most = sent + 1 + rate / 200;
		for (due = due < most ? due : most; sent < due;) {
			int count = due - sent < BATCH ? due - sent : BATCH;
			say(&t, out, sent % t.flows, sent, count);
			sent += count;
		}
		listen_to_all(&t, in);
		nap_until(now() + NAP);
	}
	for (uint64_t until = now() + SECOND / 2; now() < until; nap_until(now() + NAP))
		listen_to_all(&t, in);
	write_log(&t.sent, words[6], ".sent");
	write_log(&t.came, words[6], ".back");
	return 0;
}

int main(int count, char **words)
{
	struct sigaction action = { .sa_handler = end };
	const char *what = count > 1 ? words[1] : "";
	sigaction(SIGTERM, &action, NULL);
	prctl(PR_SET_TIMERSLACK, 1);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (!strcmp(what, "sink") && count == 3)
		return sink(atoi(words[2]));
	if (!strcmp(what, "blast") && count == 9)
		return blast(words + 2);
	if (!strcmp(what, "echo") && count == 4)
		return echo(words[2], atoi(words[3]));
	if (!strcmp(what, "ask") && count == 6)
		return ask(words + 2);
	if (!strcmp(what, "answer") && count == 4)
		return answer(atoi(words[2]), words[3]);
	if (!strcmp(what, "talk") && count == 9)
		return talk(words + 2);
	fputs("meter sink|blast|echo|ask|answer|talk: see the head of meter.c\n", stderr);
	return 2;
}
