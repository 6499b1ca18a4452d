"""What the core of a worker wants done.  The shell (shell.py) does it, in the order in which it was wanted.

A descriptor belongs to the effect that carries it: the shell closes it, whether or not the effect succeeds.
"""

from __future__ import annotations

from collections.abc import Callable

from tlspool_common.fd import OwnedFd
from tlspool_common.log import Note as Note
from tlspool_common.messages import (
    AskExport,
    AskFact,
    AskRemote,
    AskTraffic,
    Message,
    StartSession,
    UseCredential,
    Verdict,
)
from tlspool_common.record import record
from tlspool_worker.exits import Exit
from tlspool_worker.trust import Generation


@record
class Say:
    """Say something to the broker."""

    message: Message


@record
class UseKeys:
    """Take this channel to keyd for handshakes that begin from now on."""

    fd: OwnedFd


@record
class Adopt:
    """Take the socket of a new session.  Nothing is read from it yet."""

    session_id: int
    fd: OwnedFd


@record
class Listen:
    """Wait for bytes of the remote, once."""

    session_id: int


@record
class SendCipher:
    """Send bytes to the remote."""

    session_id: int
    data: bytes


@record
class Begin:
    """Make a handshake, and do its first step with what the remote has sent so far."""

    start: StartSession
    credentials: tuple[UseCredential, ...]
    trust: Generation
    data: bytes


@record
class GoOn:
    """Do the next step of a handshake."""

    session_id: int
    data: bytes


@record
class Judge:
    """Tell the thread of a handshake, which waits for it, what the broker has decided."""

    verdict: Verdict


@record
class OpenRelay:
    """The handshake is done: keep what the remote sends for the application that will come."""

    session_id: int


@record
class Attach:
    """Give the relay its plaintext end."""

    session_id: int
    fd: OwnedFd


@record
class EndRelay:
    """Stop relaying, with close_notify; the end is reported by relay_ended as any other."""

    session_id: int


@record
class Ask:
    """Find out what the broker wants to know of a relay; ``trust`` is for AskRemote."""

    message: AskExport | AskFact | AskRemote | AskTraffic
    trust: Generation | None


@record
class ForgetQuestions:
    """Tell nobody any more what was asked before now: who asked is gone, and another one counts from the beginning."""


@record
class Answer:
    """Show the remote of a relay, which has asked, who we are; without credentials, that we are nobody."""

    session_id: int
    credentials: tuple[UseCredential, ...]


@record
class Wait:
    """Say ``waited`` after so many milliseconds, if the session is still there."""

    session_id: int
    delay_ms: int


@record
class Drop:
    """Let go of a session that does not relay: its socket is closed as soon as the remote has seen the end."""

    session_id: int


@record
class Finish:
    """End this process."""

    status: Exit


Effect = (
    Say
    | UseKeys
    | Adopt
    | Listen
    | SendCipher
    | Begin
    | GoOn
    | Judge
    | OpenRelay
    | Attach
    | EndRelay
    | Ask
    | ForgetQuestions
    | Answer
    | Wait
    | Drop
    | Note
    | Finish
)
Out = Callable[[Effect], None]
