"""Every number that bounds what the helper does, with the reason for it and what others chose."""

from __future__ import annotations

# --- downloads --------------------------------------------------------------------------------------

LIST_B = 16 * 1024 * 1024
"""A revocation list.  Large public ones have 1 to 10 MiB; 16 MiB are about 450 000 certificates."""

RESPONSE_B = 16 * 1024
"""An OCSP response: what is read of one (tlspool_common.limits.OCSP_B).  500 bytes to 3 KiB are usual."""

HEAD_B = 16 * 1024
"""The head of an HTTP response; nginx and Apache send at most 8 KiB themselves."""

PARTS, PART_B = 4_096, 64
"""Pieces of an HTTP answer, and bytes for each one more: chunks are of some KiB.  Each costs 20 microseconds of the
one thread that all downloads share, so that a host with chunks of a byte would hold up the others."""

BUFFERED_B = 64 * 1024 * 1024
"""Bytes of all downloads together that are not parsed yet: four of the largest lists."""

LIST_S, RESPONSE_S = 30.0, 10.0
"""How long a download may take in all, names and redirection included: 16 MiB in 30 s are 4.5 Mbit/s."""

CONNECT_S = 3.0
"""For one address to accept a connection; SYN is repeated after 1 s and 3 s (tcp(7))."""

ADDRESSES = 3
"""Addresses of one name that are tried: one of each family, and another."""

REDIRECTIONS = 1
"""An authority that moved; chains of them are mistakes, or worse."""

AT_ONCE = 32
"""Downloads at once of each kind, and threads that look up names.  What waits beyond that is in order of arrival."""

AT_ONCE_OF_HOST = 4
"""Of these from one host, so that one that is slow leaves room for others; browsers open six."""

WAITING = 256
"""Downloads that wait; beyond it a question is answered as if nobody had replied."""

RETRY_MS = (5_000, 15_000, 60_000, 300_000)
"""Until something that failed is tried again, by failures in a row: soon at first, as most are over in seconds."""

# --- memory -----------------------------------------------------------------------------------------

LISTS = 256
"""Lists that are kept.  A host that speaks with the whole Web sees some dozens in an hour."""

SERIALS = 1_000_000
"""Revoked certificates in all lists that are kept: about 110 bytes each."""

RESPONSES = 5_000
"""OCSP answers that are kept, each with the certificate and its issuer's: 5 to 30 KiB."""

STAPLES = 1_000
"""Responses that are kept to be stapled: at most as many local certificates have one."""

CHAINS = 500
"""Chains that are kept parsed and checked: some KiB each, and 128 KiB at most."""

QUESTIONS = 10_000
"""Questions that wait for the network: as many handshakes as a host has at once."""

FILE_B = 64 * 1024 * 1024
"""A file with revocation lists."""

LISTS_OF_FILE = 64
"""Lists in one file; a bundle of all public authorities' lists would be files of a directory instead."""

# --- time -------------------------------------------------------------------------------------------

SKEW_S = 300
"""How far clocks may be apart; as for OCSP (tlspool_worker.ocsp)."""

LIST_REFRESH_S = 24 * 3600
"""A list is asked for again after a day, or half its life if that is less, though it may count for a year."""

REFRESH_S = 60
"""Soonest that something which still counts is asked for again: once a minute hurts no authority."""

HOLD_S = 5
"""How long what was just got is used at least, so that questions that wait for it do not ask for it once more."""

UNKNOWN_S = 300
"""How long it counts that a responder does not know a certificate: new ones are known within minutes."""

QUESTION_MS = 60_000
"""Longest time for a question; a handshake is over before that."""

SWEEP_MS = 60_000
"""Between two looks at what is to be refreshed, and two lines of counters in the log."""

FILES_S = 1.0
"""Between two looks whether a file has changed."""

STAPLE_UNUSED_S = 24 * 3600
"""A staple that nobody has asked for in a day is not refreshed any more."""

NOTES_A_MINUTE = 30
"""Failures written to the log in a minute; how many more there were is in the counters."""
