/* Ask RADIUS by way of the TLS pool, and have the pool account for something: a program of one page.
 *
 *   cc -o aaa examples/c/aaa.c
 *   aaa SOCKET authenticate IDENTITY              the password is read from standard input
 *   aaa SOCKET authorize IDENTITY KIND INSTANCE
 *   aaa SOCKET start IDENTITY KIND INSTANCE
 *   aaa SOCKET update KIND INSTANCE ITEMS
 *   aaa SOCKET end KIND INSTANCE ITEMS
 *
 * Exit status 0: accepted, or kept; 1: rejected; 2: the pool says ERROR; 3: anything else.
 */

#define _GNU_SOURCE
#include "tlspool_aaa.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int pool;

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(3);
}

static void text(char *field, size_t size, const char *value)
{
	if (strlen(value) >= size)
		fail("a text is too long for its field");
	strcpy(field, value);
}

/* Send a frame, and wait for the one reply to it. */
static void ask(struct tlspool_aaa *frame, uint32_t cmd)
{
	static uint16_t last;
	char *at = (char *)frame;
	size_t left = sizeof *frame;

	frame->reqid = ++last;
	frame->cmd = cmd;
	if (send(pool, frame, sizeof *frame, MSG_NOSIGNAL) != sizeof *frame)
		fail("the pool takes nothing");
	explicit_bzero(frame, sizeof *frame);
	while (left > 0) {
		ssize_t got = recv(pool, at, left, 0);
		if (got <= 0)
			fail("the pool has closed the connection");
		at += got;
		left -= (size_t)got;
	}
	if (frame->reqid != last)
		fail("the reply is to something else");
	if (frame->cmd == TLSPOOL_ERROR) {
		printf("%.127s\n", frame->data.error.message);
		exit(2);
	}
	if (frame->cmd != (cmd == TLSPOOL_SUBJECT ? TLSPOOL_SUCCESS : cmd))
		fail("the reply makes no sense");
}

/* Say whom the next question with this key is about. */
static void name(uint8_t key[16], const char *identity)
{
	struct tlspool_aaa frame = { 0 };

	if (getrandom(key, 16, 0) != 16)
		fail("getrandom");
	memcpy(frame.data.subject.key, key, 16);
	text(frame.data.subject.remoteid, sizeof frame.data.subject.remoteid, identity);
	ask(&frame, TLSPOOL_SUBJECT);
}

static int verdict(struct tlspool_aaa *frame, const uint8_t key[16])
{
	struct tlspool_verdict *told = &frame->data.verdict;
	const char *tag = told->tags;

	if (memcmp(told->key, key, 16) != 0)
		fail("the answer is to another question");
	printf("%s session_timeout_s=%" PRIu32 " %s\n", told->said == TLSPOOL_ACCEPTED ? "accepted" : "rejected",
	       told->session_timeout_s, told->message);
	for (int n = 0; n < told->tags_here; n++, tag += strlen(tag) + 1)
		printf("tag %s\n", tag);
	return told->said == TLSPOOL_ACCEPTED ? 0 : 1;
}

static int kept(struct tlspool_aaa *frame)
{
	printf("kept %.64s\n", frame->data.kept.acct_id);
	return 0;
}

static int count(uint32_t cmd, char **words)
{
	struct tlspool_aaa frame = { 0 };

	text(frame.data.count.kind, sizeof frame.data.count.kind, words[0]);
	text(frame.data.count.instance, sizeof frame.data.count.instance, words[1]);
	frame.data.count.items = strtoull(words[2], NULL, 10);
	frame.data.count.has_items = 1;
	ask(&frame, cmd);
	return kept(&frame);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct tlspool_aaa frame = { 0 };
	uint8_t key[16];
	const char *deed = argc > 3 ? argv[2] : "";

	if (argc > 1)
		text(address.sun_path, sizeof address.sun_path, argv[1]);
	pool = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (argc < 4 || pool < 0 || connect(pool, (struct sockaddr *)&address, sizeof address) != 0)
		fail("usage: aaa SOCKET authenticate|authorize|start|update|end ...; or there is no pool");
	if (!strcmp(deed, "authenticate")) {
		name(key, argv[3]);
		memcpy(frame.data.authenticate.key, key, 16);
		ssize_t size = read(0, frame.data.authenticate.password, sizeof frame.data.authenticate.password);
		if (size > 0 && frame.data.authenticate.password[size - 1] == '\n')
			size--;
		if (size <= 0)
			fail("no password");
		frame.data.authenticate.password_len = (uint16_t)size;
		ask(&frame, TLSPOOL_AUTHENTICATE);
		return verdict(&frame, key);
	}
	if (argc != 6)
		fail("that takes three words more");
	if (!strcmp(deed, "authorize")) {
		name(key, argv[3]);
		memcpy(frame.data.authorize.key, key, 16);
		text(frame.data.authorize.kind, sizeof frame.data.authorize.kind, argv[4]);
		text(frame.data.authorize.instance, sizeof frame.data.authorize.instance, argv[5]);
		ask(&frame, TLSPOOL_AUTHORIZE);
		return verdict(&frame, key);
	}
	if (!strcmp(deed, "start")) {
		name(key, argv[3]);
		memcpy(frame.data.start.key, key, 16);
		text(frame.data.start.kind, sizeof frame.data.start.kind, argv[4]);
		text(frame.data.start.instance, sizeof frame.data.start.instance, argv[5]);
		ask(&frame, TLSPOOL_ACCOUNT_START);
		return kept(&frame);
	}
	if (!strcmp(deed, "update"))
		return count(TLSPOOL_ACCOUNT_UPDATE, argv + 3);
	if (!strcmp(deed, "end"))
		return count(TLSPOOL_ACCOUNT_END, argv + 3);
	fail("no such deed");
}
