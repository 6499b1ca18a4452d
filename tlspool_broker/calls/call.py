"""What a command handler gets: the frame, who sent it, and the parts of the broker it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tlspool_broker.aaa import Aaa
from tlspool_broker.access import Access
from tlspool_broker.chooser import Chooser
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.events import PassedFd
from tlspool_broker.explain import Explain
from tlspool_broker.keyd import Keyd
from tlspool_broker.questions import Questions
from tlspool_broker.reauth import Reauth
from tlspool_broker.sessions import Sessions
from tlspool_broker.snapshot import Snapshots
from tlspool_common.appwire import Frame
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import Settings


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of the broker."""

    settings: Settings
    snapshots: Snapshots
    connections: Connections
    sessions: Sessions
    access: Access
    questions: Questions
    reauth: Reauth
    keyd: Keyd
    chooser: Chooser
    explain: Explain
    aaa: Aaa


@dataclass(slots=True)
class Call:
    """A fresh request of an application.  A descriptor that the handler does not take is closed after it."""

    connection: Connection
    frame: Frame
    passed: PassedFd | None

    def take_fd(self) -> OwnedFd:
        """Hand over the descriptor.

        Raises:
            PoolError: INTERNAL, there is none; the handler was to look first.
        """
        passed, self.passed = self.passed, None
        if passed is None:
            raise PoolError(Code.INTERNAL, "there is no descriptor")
        return passed.fd


Handler = Callable[[Desk, Call], None]
"""Replies, or opens a session.  Raises PoolError or BadPayload: the application gets ERROR."""


def reply(desk: Desk, call: Call, cmd: int, payload: bytes = b"") -> None:
    """Send the final reply of a request that was answered at once."""
    desk.connections.send(call.connection, call.frame.reqid, 0, cmd, payload)
