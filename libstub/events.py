"""What goes into the protocol core and what comes out of it: events in the past tense, effects in the imperative."""

from __future__ import annotations

import errno
from dataclasses import field
from typing import NewType

from libstub.errors import PoolError
from tlspool_common.appwire import Cmd, Details, Starttls
from tlspool_common.fd import OwnedFd
from tlspool_common.record import record

Ticket = NewType("Ticket", int)
"""The shell's number for a request, until its Finish."""

# --- events: what the application asked, and what happened ------------------------------------------


@record
class PingAsked:
    """The application wants to know whether there is a pool, and which of ``facilities`` it has."""

    ticket: Ticket
    facilities: int = 0xFFFFFFFF
    patience_s: float | None = None


@record
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


@record
class DetailsAsked:
    """The application asks about a session that this connection controls."""

    ticket: Ticket
    ctlkey: bytes
    patience_s: float | None = None


@record
class CommandAsked:
    """The application sends a command that has one reply: ``reply``, or ERROR."""

    ticket: Ticket
    cmd: Cmd
    payload: bytes = field(repr=False)
    reply: Cmd
    patience_s: float | None = None


@record
class PlainGiven:
    """The application answers AskPlain."""

    ticket: Ticket
    plain: OwnedFd


@record
class LocalidChosen:
    """The application answers AskLocalid: with the proposal, another identity, or '' for none of this.

    With ``plain`` the proposal is accepted as it is.
    """

    ticket: Ticket
    localid: str
    plain: OwnedFd | None = None


@record
class CallbackRefused:
    """The application says no to AskPlain or AskLocalid; the pool's final ERROR is still to come."""

    ticket: Ticket
    number: int = errno.EACCES


@record
class Abandoned:
    """Nobody waits for this ticket any more; it is finished without a Finish."""

    ticket: Ticket


@record
class BytesReceived:
    """Some bytes came from the pool."""

    data: bytes


@record
class ConnectionLost:
    """The connection is over."""

    reason: str


@record
class Forked:
    """This process is a child of the one that speaks with the pool, and must not interfere."""


@record
class TimePassed:
    """Nothing happened for a while."""


Event = (
    PingAsked
    | StarttlsAsked
    | DetailsAsked
    | CommandAsked
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


@record
class Send:
    """Send one frame, with a descriptor that the core still owns."""

    data: bytes = field(repr=False)
    fd: OwnedFd | None = None


@record
class Shut:
    """Shut a socket down both ways, so that the remote sees the end at once whoever else holds it."""

    fd: OwnedFd


@record
class Close:
    """Close a descriptor."""

    fd: OwnedFd


@record
class AskPlain:
    """Ask the application for the plaintext descriptor; the identities are authenticated."""

    ticket: Ticket
    localid: str
    remoteid: str


@record
class AskLocalid:
    """Ask the application whether it wants to be ``localid``; '' when the pool has nobody to propose."""

    ticket: Ticket
    localid: str
    remoteid: str = ""


@record
class Pong:
    """There is a pool.

    Attributes:
        identity: what the pool calls itself, with the date of the protocol.
        facilities: those of the wanted ones that it has (tlspool_common.appwire.Facility).
    """

    identity: str
    facilities: int


@record
class Established:
    """There is a session.  ``details`` is None when they were not wanted, or the pool does not tell them."""

    ctlkey: bytes = field(repr=False)
    localid: str
    remoteid: str
    details: Details | None = None
    flags: int = 0
    tags: tuple[str, ...] = ()


@record
class Replied:
    """The reply to a CommandAsked."""

    payload: bytes = field(repr=False)


Outcome = Pong | Established | Details | Replied | PoolError


@record
class Finish:
    """Tell the application how its request ended."""

    ticket: Ticket
    outcome: Outcome


@record
class Break:
    """Close the connection: nothing of what comes over it can be believed."""

    error: PoolError


Effect = Send | Shut | Close | AskPlain | AskLocalid | Finish | Break
