"""The states of a session and what may happen in each: the table that session.py tells the theory of."""

from __future__ import annotations

from enum import Enum, auto

from tlspool_common.errors import Code
from tlspool_common.messages import (
    ClientHelloSeen,
    HandshakeDone,
    HandshakeFailed,
    Message,
    RemoteShown,
    SessionEnded,
)


class State(Enum):
    """What a session expects."""

    __hash__ = object.__hash__  # members are singles, and Enum's own is Python: tables are asked for each message

    EXPECT_CHOICE = auto()
    EXPECT_LOCALID = auto()
    EXPECT_KEYD = auto()
    EXPECT_WORKER = auto()
    EXPECT_CLIENT_HELLO = auto()
    EXPECT_HANDSHAKE = auto()
    EXPECT_ADVICE = auto()
    EXPECT_ALERT = auto()
    EXPECT_RADIUS = auto()
    EXPECT_PLAINTEXT = auto()
    RELAYING = auto()
    EXPECT_END = auto()
    OVER = auto()


class Happening(Enum):
    """What can happen to a session."""

    __hash__ = object.__hash__  # members are singles, and Enum's own is Python: tables are asked for each message

    CHOICE_MADE = auto()
    LOCALID_CHOSEN = auto()
    LOCALID_REFUSED = auto()
    KEYD_JOINED = auto()
    WORKER_FOUND = auto()
    HELLO_SEEN = auto()
    REMOTE_SHOWN = auto()
    ADVISED = auto()
    HANDSHAKE_DONE = auto()
    HANDSHAKE_FAILED = auto()
    ADMITTED = auto()
    PLAIN_GIVEN = auto()
    ENDED = auto()
    WORKER_LOST = auto()
    GIVEN_UP = auto()


_S, _H = State, Happening

# What may happen in each state, and where it leads.  Anything else is a fault: of the worker, when it said so.
TABLE: dict[State, dict[Happening, frozenset[State]]] = {
    _S.EXPECT_CHOICE: {
        _H.CHOICE_MADE: frozenset({_S.EXPECT_LOCALID, _S.EXPECT_KEYD, _S.EXPECT_WORKER}),
        _H.GIVEN_UP: frozenset({_S.OVER}),
    },
    _S.EXPECT_LOCALID: {
        _H.LOCALID_CHOSEN: frozenset({_S.EXPECT_KEYD, _S.EXPECT_WORKER, _S.EXPECT_HANDSHAKE}),
        _H.LOCALID_REFUSED: frozenset({_S.EXPECT_LOCALID}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END, _S.OVER}),
    },
    _S.EXPECT_KEYD: {
        _H.KEYD_JOINED: frozenset({_S.EXPECT_WORKER, _S.EXPECT_HANDSHAKE}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END, _S.OVER}),
    },
    _S.EXPECT_WORKER: {
        _H.WORKER_FOUND: frozenset({_S.EXPECT_CLIENT_HELLO, _S.EXPECT_HANDSHAKE, _S.EXPECT_KEYD}),
        _H.GIVEN_UP: frozenset({_S.OVER}),
    },
    _S.EXPECT_CLIENT_HELLO: {
        _H.HELLO_SEEN: frozenset({_S.EXPECT_LOCALID, _S.EXPECT_KEYD, _S.EXPECT_HANDSHAKE}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_HANDSHAKE: {
        _H.HELLO_SEEN: frozenset({_S.EXPECT_LOCALID, _S.EXPECT_KEYD, _S.EXPECT_HANDSHAKE}),
        _H.REMOTE_SHOWN: frozenset({_S.EXPECT_HANDSHAKE, _S.EXPECT_ADVICE, _S.EXPECT_ALERT}),
        _H.HANDSHAKE_DONE: frozenset({_S.EXPECT_RADIUS, _S.EXPECT_PLAINTEXT, _S.RELAYING}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_ADVICE: {
        _H.ADVISED: frozenset({_S.EXPECT_HANDSHAKE, _S.EXPECT_ALERT}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_ALERT: {
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_RADIUS: {
        _H.ADMITTED: frozenset({_S.EXPECT_PLAINTEXT, _S.RELAYING}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.ENDED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_PLAINTEXT: {
        _H.PLAIN_GIVEN: frozenset({_S.RELAYING}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.ENDED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.RELAYING: {
        _H.ENDED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
        _H.GIVEN_UP: frozenset({_S.EXPECT_END}),
    },
    _S.EXPECT_END: {
        _H.HELLO_SEEN: frozenset({_S.EXPECT_END}),
        _H.REMOTE_SHOWN: frozenset({_S.EXPECT_END}),
        _H.HANDSHAKE_DONE: frozenset({_S.EXPECT_END}),
        _H.HANDSHAKE_FAILED: frozenset({_S.OVER}),
        _H.ENDED: frozenset({_S.OVER}),
        _H.WORKER_LOST: frozenset({_S.OVER}),
    },
    _S.OVER: {},
}

SAID: dict[type[Message], Happening] = {
    ClientHelloSeen: Happening.HELLO_SEEN,
    RemoteShown: Happening.REMOTE_SHOWN,
    HandshakeDone: Happening.HANDSHAKE_DONE,
    HandshakeFailed: Happening.HANDSHAKE_FAILED,
    SessionEnded: Happening.ENDED,
}
"""What a message of the worker means."""

LAST_WORDS = frozenset({Happening.HANDSHAKE_FAILED, Happening.ENDED})
"""After one of these a worker has nothing more to say about a session."""

OVERDUE = {
    _S.EXPECT_CHOICE: Code.HANDSHAKE_TIMEOUT,
    _S.EXPECT_LOCALID: Code.CALLBACK_TIMEOUT,
    _S.EXPECT_KEYD: Code.NO_KEYD,
    _S.EXPECT_WORKER: Code.NO_WORKER,
    _S.EXPECT_CLIENT_HELLO: Code.HANDSHAKE_TIMEOUT,
    _S.EXPECT_HANDSHAKE: Code.HANDSHAKE_TIMEOUT,
    _S.EXPECT_ADVICE: Code.HANDSHAKE_TIMEOUT,
    _S.EXPECT_ALERT: Code.HANDSHAKE_TIMEOUT,
    _S.EXPECT_RADIUS: Code.RADIUS_UNANSWERED,
    _S.EXPECT_PLAINTEXT: Code.CALLBACK_TIMEOUT,
}
"""Why a session fails when what it expects has not come in time, unless the handshake's timeout is over too."""
