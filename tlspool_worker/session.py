"""One session of a worker: its state, and which may follow which.

sessions.py has the theory, and makes the changes.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from tlspool_common.messages import Proceed, Side, StartSession, UseCredential
from tlspool_worker.client_hello import HelloReader
from tlspool_worker.symmetry import Symmetry
from tlspool_worker.trust import Generation

CREDENTIALS = 4
"""Credentials for one session: one for each kind of key there is."""


class State(Enum):
    """What a session expects."""

    __hash__ = object.__hash__  # members are singles, and Enum's own is Python: tables are asked for each message

    EXPECT_CLIENT_HELLO = auto()
    EXPECT_PROCEED = auto()
    EXPECT_ROLE = auto()
    EXPECT_STEP = auto()
    EXPECT_VERDICT = auto()
    EXPECT_REMOTE = auto()
    EXPECT_PLAINTEXT = auto()
    RELAYING = auto()
    OVER = auto()


_S = State
TABLE: dict[State, frozenset[State]] = {
    _S.EXPECT_CLIENT_HELLO: frozenset({_S.EXPECT_PROCEED, _S.OVER}),
    _S.EXPECT_PROCEED: frozenset({_S.EXPECT_ROLE, _S.EXPECT_STEP, _S.OVER}),
    _S.EXPECT_ROLE: frozenset({_S.EXPECT_PROCEED, _S.EXPECT_STEP, _S.OVER}),
    _S.EXPECT_STEP: frozenset({_S.EXPECT_VERDICT, _S.EXPECT_REMOTE, _S.EXPECT_PLAINTEXT, _S.OVER}),
    _S.EXPECT_VERDICT: frozenset({_S.EXPECT_STEP, _S.OVER}),
    _S.EXPECT_REMOTE: frozenset({_S.EXPECT_PROCEED, _S.EXPECT_STEP, _S.OVER}),
    _S.EXPECT_PLAINTEXT: frozenset({_S.RELAYING, _S.OVER}),
    _S.RELAYING: frozenset({_S.OVER}),
    _S.OVER: frozenset(),
}

_VERSIONS = frozenset({(0x0303, 0x0303), (0x0303, 0x0304), (0x0304, 0x0304)})
"""Lowest and highest version that a policy may have: TLS 1.2 and 1.3 are what there is."""


class Handshaking:
    """What is known of a session until its handshake is done."""

    __slots__ = ("credentials", "data", "first", "hello", "start", "symmetry", "trust")

    def __init__(self, start: StartSession, trust: Generation) -> None:
        self.start = start
        self.trust = trust
        self.hello: HelloReader | None = HelloReader() if start.side is Side.SERVER else None
        self.credentials: list[UseCredential] = []
        self.first = True  # nothing of the remote has been seen by OpenSSL
        self.symmetry: Symmetry | None = Symmetry() if start.peer else None
        self.data = b""  # of a peer: what the remote has said and nobody has looked at yet


class Session:
    """One session.  Small: a worker has thousands, and most of them relay."""

    __slots__ = ("handshaking", "session_id", "state")

    def __init__(self, session_id: int, state: State, handshaking: Handshaking) -> None:
        self.session_id = session_id
        self.state = state
        self.handshaking: Handshaking | None = handshaking

    @property
    def is_unencrypted(self) -> bool:
        """Whether an alert may go out as it is: nothing of ours has been encrypted yet.

        OpenSSL has no way to be asked for an alert.  A server's encryption starts with its first flight; a
        client's, at the earliest, with the answer to it.
        """
        handshaking = self.handshaking
        if handshaking is None or self.state in (State.EXPECT_STEP, State.EXPECT_VERDICT):
            return False
        return self.state in (State.EXPECT_CLIENT_HELLO, State.EXPECT_PROCEED, State.EXPECT_ROLE) or (
            handshaking.start.side is Side.CLIENT and handshaking.first
        )

    def move(self, state: State) -> None:
        """Go to a state.

        Raises:
            AssertionError: TABLE has no such way.
        """
        if state not in TABLE[self.state]:
            raise AssertionError(f"session {self.session_id}: {self.state.name} -> {state.name}")
        self.state = state

    @property
    def nothing_sent(self) -> bool:
        """Whether a server has sent nothing at all."""
        handshaking = self.handshaking
        return handshaking is not None and handshaking.first and handshaking.start.side is Side.SERVER


def add(given: list[UseCredential], message: UseCredential) -> None:
    """Take one more credential.

    Raises:
        ValueError: it is empty, or one of its kind is there.
    """
    kinds = [credential.key_kind for credential in given]
    if not message.chain or message.key_kind in kinds or len(kinds) >= CREDENTIALS:
        raise ValueError("a credential that is empty or too many")
    given.append(message)


def under(start: StartSession | None, message: Proceed) -> StartSession | None:
    """Return a session's policy as it is now: that of its start, unless a Proceed has another one.

    Raises:
        ValueError: it may not have one (only a server's handshake may), or half of one, or one without versions.
    """
    versions = message.tls_min, message.tls_max
    lists = message.groups, message.ciphers_tls12, message.ciphersuites_tls13, message.sigalgs
    if not any(versions) and not any(lists) and not message.names_anchors:
        return start
    if start is None or start.side is not Side.SERVER:
        raise ValueError("another policy for what is not the handshake of a server")
    if versions not in _VERSIONS:
        raise ValueError(f"another policy, for TLS {message.tls_min:#x} to {message.tls_max:#x}")
    return replace(
        start,
        tls_min=message.tls_min,
        tls_max=message.tls_max,
        groups=message.groups,
        ciphers_tls12=message.ciphers_tls12,
        ciphersuites_tls13=message.ciphersuites_tls13,
        sigalgs=message.sigalgs,
        names_anchors=message.names_anchors,
    )


def alert_record(alert: int) -> bytes:
    """Return a fatal alert in a plaintext record (RFC 8446 sections 5.1 and 6)."""
    return bytes([21, 3, 3, 0, 2, 2, alert])
