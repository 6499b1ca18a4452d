"""What goes into the protocol core and what comes out of it: events in the past tense, effects in the imperative."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import NewType

from libstub.errors import PoolError
from tlspool_common.appwire import Details, Starttls
from tlspool_common.fd import OwnedFd

Ticket = NewType("Ticket", int)
"""The shell's number for a request, until its Finish."""

# --- events: what the application asked, and what happened ------------------------------------------


@dataclass(frozen=True, slots=True)
class PingAsked:
    """The application wants to know whether there is a pool, and which of ``facilities`` it has."""

    ticket: Ticket
    facilities: int = 0xFFFFFFFF
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class StarttlsAsked:
    """The application hands over a connected socket.

    ``alpn`` is a ProtocolNameList body.  ``patience_s`` bounds each wait for the pool; None leaves it to the pool.
    """

    ticket: Ticket
    request: Starttls
    crypt: OwnedFd
    alpn: bytes = b""
    details: bool = True
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class DetailsAsked:
    """The application asks about a session that this connection controls."""

    ticket: Ticket
    ctlkey: bytes
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class PlainGiven:
    """The application answers AskPlain."""

    ticket: Ticket
    plain: OwnedFd


@dataclass(frozen=True, slots=True)
class LocalidChosen:
    """The application answers AskLocalid.  With ``plain`` the proposal is accepted as it is."""

    ticket: Ticket
    localid: str
    plain: OwnedFd | None = None


@dataclass(frozen=True, slots=True)
class CallbackRefused:
    """The application says no to AskPlain or AskLocalid; the pool's final ERROR is still to come."""

    ticket: Ticket
    number: int = errno.EACCES


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Nobody waits for this ticket any more; it is finished without a Finish."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Some bytes came from the pool."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Forked:
    """This process is a child of the one that speaks with the pool, and must not interfere."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened for a while."""


Event = (
    PingAsked
    | StarttlsAsked
    | DetailsAsked
    | PlainGiven
    | LocalidChosen
    | CallbackRefused
    | Abandoned
    | BytesReceived
    | ConnectionLost
    | Forked
    | TimePassed
)


# --- effects: what the shell is to do, in this order ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send one frame, with a descriptor that the core still owns."""

    data: bytes = field(repr=False)
    fd: OwnedFd | None = None


@dataclass(frozen=True, slots=True)
class Shut:
    """Shut a socket down both ways, so that the remote sees the end at once whoever else holds it."""

    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class Close:
    """Close a descriptor."""

    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class AskPlain:
    """Ask the application for the plaintext descriptor; the identities are authenticated."""

    ticket: Ticket
    localid: str
    remoteid: str


@dataclass(frozen=True, slots=True)
class AskLocalid:
    """Ask the application whether it wants to be ``localid``."""

    ticket: Ticket
    localid: str


@dataclass(frozen=True, slots=True)
class Pong:
    """There is a pool.

    Attributes:
        identity: what the pool calls itself, with the date of the protocol.
        facilities: those of the wanted ones that it has (tlspool_common.appwire.Facility).
    """

    identity: str
    facilities: int


@dataclass(frozen=True, slots=True)
class Established:
    """There is a session.  ``details`` is None when they were not wanted, or the pool does not tell them."""

    ctlkey: bytes = field(repr=False)
    localid: str
    remoteid: str
    details: Details | None = None


Outcome = Pong | Established | Details | PoolError


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell the application how its request ended."""

    ticket: Ticket
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Break:
    """Close the connection: nothing of what comes over it can be believed."""

    error: PoolError


Effect = Send | Shut | Close | AskPlain | AskLocalid | Finish | Break
