/* The application's AAA over the socket of the TLS pool: authenticate, authorise, account, by way of RADIUS.
 *
 * Layouts and numbers as docs/protocol.md has them, and nothing else of the pool.  A message is one frame of 388 bytes
 * in host order, over a connected AF_UNIX stream socket; texts are UTF-8 with a NUL behind them, unused bytes are 0.
 *
 *   SUBJECT(key, remoteid)  -> SUCCESS          says whom `key` stands for: 16 random bytes, for one question
 *   AUTHENTICATE(key, ...)  -> AUTHENTICATE     tlspool_verdict
 *   AUTHORIZE(key, ...)     -> AUTHORIZE        tlspool_verdict
 *   ACCOUNT_START(key, ...) -> ACCOUNT_START    tlspool_account_kept: it is on the disk
 *   ACCOUNT_UPDATE, _END    -> the same         likewise; known by user, kind and instance from now on
 *   any                     -> ERROR            text that begins with a stable code in brackets, as [807]
 *
 * `key` is also the control key of a session of this connection, whose remote is meant; then no SUBJECT is needed.
 */

#ifndef TLSPOOL_AAA_H
#define TLSPOOL_AAA_H

#include <stddef.h>
#include <stdint.h>

#pragma pack(push, 2)
struct tlspool_error {
	int32_t tlserrno;
	char message[128];
};
struct tlspool_subject {
	uint8_t key[16];
	char remoteid[128], localid[128], service[16]; /* whom; what is used of ours: the last two may be empty */
};
struct tlspool_authenticate {
	uint8_t key[16];
	uint32_t timeout_ms; /* 0: as long as the pool waits at most */
	uint16_t password_len;
	uint8_t password[128];
};
struct tlspool_authorize {
	uint8_t key[16];
	uint32_t timeout_ms;
	char kind[64], instance[128]; /* what it is to have, in your own words; both may be empty */
};
struct tlspool_verdict {
	uint8_t key[16];
	uint8_t said, unused; /* TLSPOOL_ACCEPTED, TLSPOOL_REJECTED */
	uint16_t tags_total, tags_here;
	uint32_t session_timeout_s, idle_timeout_s; /* 0: none.  They are yours to mind */
	char message[128];                          /* what the server says for people */
	char tags[220];                             /* tags_here texts, each with its NUL */
};
struct tlspool_tags {
	uint8_t key[16];
	uint16_t first, total, here;
	char tags[352];
};
struct tlspool_account_start {
	uint8_t key[16];
	uint64_t at_ms; /* since 1970; 0: now */
	char kind[64], instance[128];
};
struct tlspool_account_count { /* UPDATE, END */
	uint64_t at_ms, items;
	uint8_t has_items, unused; /* 0: the last count holds */
	char kind[64], instance[128];
};
struct tlspool_account_kept {
	uint64_t at_ms;
	char acct_id[65]; /* Acct-Session-Id in the records */
};
struct tlspool_aaa {
	uint16_t reqid, cbid;
	uint32_t cmd;
	union {
		struct tlspool_error error;
		struct tlspool_subject subject;
		struct tlspool_authenticate authenticate;
		struct tlspool_authorize authorize;
		struct tlspool_verdict verdict;
		struct tlspool_tags tags;
		struct tlspool_account_start start;
		struct tlspool_account_count count;
		struct tlspool_account_kept kept;
		uint8_t payload[380];
	} data;
};
#pragma pack(pop)

_Static_assert(sizeof(struct tlspool_aaa) == 388, "the size of a frame");
_Static_assert(sizeof(struct tlspool_subject) == 288 && sizeof(struct tlspool_authenticate) == 150, "questions");
_Static_assert(sizeof(struct tlspool_authorize) == 212 && sizeof(struct tlspool_verdict) == 378, "and answers");
_Static_assert(sizeof(struct tlspool_tags) == 374 && offsetof(struct tlspool_verdict, message) == 30, "tags");
_Static_assert(sizeof(struct tlspool_account_start) == 216 && sizeof(struct tlspool_account_count) == 210, "accounts");
_Static_assert(offsetof(struct tlspool_account_count, kind) == 18, "packed to 2");

enum {
	TLSPOOL_SUCCESS = 0x00,
	TLSPOOL_ERROR = 0x01,
};

#define TLSPOOL_TAGS 0x80000004u
#define TLSPOOL_SUBJECT 0x80000020u
#define TLSPOOL_AUTHENTICATE 0x80000021u
#define TLSPOOL_AUTHORIZE 0x80000022u
#define TLSPOOL_ACCOUNT_START 0x80000023u
#define TLSPOOL_ACCOUNT_UPDATE 0x80000024u
#define TLSPOOL_ACCOUNT_END 0x80000025u

enum {
	TLSPOOL_ACCEPTED = 1,
	TLSPOOL_REJECTED = 2,
};

#endif
