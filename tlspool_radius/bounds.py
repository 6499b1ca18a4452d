"""Every number that bounds what the helper does, with the reason for it and what others chose."""

from __future__ import annotations

# --- packets ----------------------------------------------------------------------------------------

PACKET_B = 4096
"""A packet (RFC 2865 section 3)."""

STOP_B = 128
"""What the last record of a session has more than its first one: figures, their second halves, a cause."""

RECEIVED_B = PACKET_B + 1
"""What is read of a datagram: one byte more shows that it is too long."""

# --- servers ----------------------------------------------------------------------------------------

PORTS = 16
"""Sockets for one server, each with 256 identifiers (RFC 2865 section 2.5): 4096 questions that it has not answered."""

PORT_IDLE_MS = 60_000
"""A socket but the first that has had nothing to do for so long is closed: late answers are not seen after that."""

QUESTIONS = 10_000
"""Questions that wait for servers: as many handshakes as a host has at once."""

QUESTION_MS = 120_000
"""Longest time for a question; a handshake is over before that."""

JITTER = 0.1
"""RFC 5080 section 2.2.1 has waiting times differ by a tenth either way, so that who lost packets together does not
repeat them together.  Here it is a tenth less at most: `radius_wait_s` is a multiple of `radius_timeout_s`."""

DATAGRAMS_AT_ONCE = 64
"""Datagrams taken from one socket before others get their turn."""

NAMES_AT_ONCE = 4
"""Threads that look up names of servers; one that hangs leaves others."""

# --- accounting -------------------------------------------------------------------------------------

FLYING = 64
"""Records that are sent and not acknowledged.  FreeRADIUS has 32 threads, and a queue behind them."""

LOADED = 512
"""Records that are read from the spool at once; there are fewer when so many are being sent."""

HELD = 4096
"""Records in memory: those that were not taken, and wait for another try, are among them."""

SLACK_MS = 1_000
"""A record has this much longer than all servers with all tries take, so that its time ends with theirs."""

DOWN_MS = (1_000, 2_000, 5_000, 10_000, 30_000)
"""Until a record is tried again when the last one was not taken, by failures in a row: an outage of a minute is over a
few seconds after its end, and one of a day costs 3000 packets."""

RETRY_MS = (10_000, 60_000, 300_000, 1_800_000)
"""Until a record is tried again that was not taken while others were: a server may not like it."""

BATCH = 256
"""Jobs in one transaction of the spool: with 5 ms for a disk to have it, 50 000 records a second are the wall."""

BACKLOG = 20_000
"""Records that wait to be written; beyond it they are refused at once."""

CLOSED_S = 3600
"""How long an id is remembered that has had its last record: a broker says a record again that it saw no answer to."""

CLOSED = 100_000
"""Of these at most."""

SPOOL_WAIT_S = 5.0
"""For an earlier helper to let go of the spool: it is killed when its broker ends, in milliseconds."""

SPOOL_AGAIN_MS = 10_000
"""Until a spool that cannot be opened is tried again."""

# --- dynamic authorisation --------------------------------------------------------------------------

DYNAMIC = 64
"""Requests that wait for the broker; it answers in microseconds."""

DYNAMIC_MS = 5_000
"""For the broker to answer; then the request is forgotten, and may be sent once more."""

DYNAMIC_KEPT = 16_384
"""Answers that are kept for requests that come again (RFC 5080 section 2.2.2): 27 a second, each for ten minutes."""

EVENT_S = 300
"""How far the Event-Timestamp of a request may be from our clock (RFC 5176 section 6.3)."""

DYNAMIC_KEPT_MS = (2 * EVENT_S + 1) * 1000
"""For as long as the time in a request lets it in: somebody on the way may have kept it, and send it once more."""

# --- people -----------------------------------------------------------------------------------------

SWEEP_MS = 60_000
"""Between two lines of counters in the log, and two looks at what is old."""

NOTES_A_MINUTE = 30
"""Lines of one kind of trouble in the log in a minute; how many more there were is in the counters."""
