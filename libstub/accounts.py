"""What a Pool asks of RADIUS servers, and what a program holds of something that it has accounted for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from libstub import aaa
from libstub.aaa import Access, Talk
from libstub.errors import PoolError
from tlspool_common.appwire import Cmd

if TYPE_CHECKING:
    from libstub.session import TlsSession

T = TypeVar("T")

PATIENCE_S = 90.0
"""For a reply: a pool waits for servers for a minute at most (radius_wait_s)."""


class Accounted:
    """Something that is accounted for: its kind and its instance, which are all that the pool knows it by.

    Any program of the user can go on with it, over any connection: it outlives sessions, this program, and the pool.

    Attributes:
        acct_id: Acct-Session-Id in the records; '' of one that was started before, until the pool has told it.
        items: how many there are, by this program's last word.
        ended: whether ``end`` was said here.
    """

    __slots__ = ("acct_id", "ended", "instance", "items", "kind")

    def __init__(self, kind: str, instance: str, acct_id: str = "") -> None:
        self.kind = kind
        self.instance = instance
        self.acct_id = acct_id
        self.items: int | None = None
        self.ended = False

    def _talk(self, items: int | None, at_s: float | None, *, ends: bool) -> aaa.Talk[None]:
        """Say how many there are, and remember what came of it."""
        cmd = Cmd.LOCAL_ACCOUNT_END if ends else Cmd.LOCAL_ACCOUNT_UPDATE
        kept = yield from aaa.count(cmd, self.kind, self.instance, items, at_s)
        self.acct_id = kept.acct_id
        self.items = self.items if items is None else items
        self.ended = self.ended or ends

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} {self.instance or '-'} {self.acct_id or '-'}>"


class Account(Accounted):
    """An account of a Pool.  ``with`` ends it, with the last count that was told; so does an exception."""

    __slots__ = ("_pool",)

    def __init__(self, pool: AskingRadius, kind: str, instance: str, acct_id: str = "") -> None:
        super().__init__(kind, instance, acct_id)
        self._pool = pool

    def update(self, items: int | None = None, *, at_s: float | None = None) -> None:
        """Say how many items there are by now.

        Args:
            items: None is as many as before.
            at_s: when, in seconds since 1970; None is now.

        Raises:
            Misuse: there is no such account, or it has ended.
            PoolUnavailable: that cannot be kept now; say it again later.
        """
        self._pool.talk(self._talk(items, at_s, ends=False))

    def end(self, items: int | None = None, *, at_s: float | None = None) -> None:
        """Say how many items there were in the end, and that it is over; arguments and errors as of ``update``."""
        self._pool.talk(self._talk(items, at_s, ends=True))

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self.end()


class AskingRadius(ABC):
    """The questions of a Pool to RADIUS servers.  They wait for the servers, for a bounded time."""

    @abstractmethod
    def command(self, cmd: Cmd, payload: bytes, reply: Cmd, *, patience_s: float | None) -> bytes:
        """Send a command that has one reply, and return the payload of that."""

    def talk(self, talk: Talk[T]) -> T:
        """Send commands one after the other, as each asks for the next (libstub.aaa); return what came of it.

        Raises:
            PoolError: one of its subclasses.
        """
        try:
            command = next(talk)
            while True:
                try:
                    payload = self.command(command.cmd, command.payload, command.reply, patience_s=PATIENCE_S)
                except PoolError as error:
                    command = talk.throw(error)
                else:
                    command = talk.send(payload)
        except StopIteration as end:
            found: T = end.value
            return found
        finally:
            talk.close()

    def authenticate(
        self,
        identity: str | TlsSession | Access,
        password: str | bytes,
        *,
        localid: str = "",
        service: str = "",
        timeout_s: float | None = None,
    ) -> Access:
        """Ask a RADIUS server whether this is somebody's password.

        Args:
            identity: whose, ``user@domain`` or a domain; a session of this pool, whose remote is meant; or one of the
                last answers of this pool.
            localid: who we are for it; '' is nobody in particular.
            service: what for, as in ``starttls_server``.
            timeout_s: how long it may take; None is what the pool allows.

        Raises:
            AccessRejected: it is not; the text is the server's.
            Refused: this program may not ask about that identity.
            NotAvailable: the pool has no server for that.
            PoolUnavailable: no server has answered.
        """
        return self.talk(aaa.authenticate(identity, password, localid, service, timeout_s))

    def authorize(
        self,
        identity: str | TlsSession | Access,
        *,
        kind: str = "",
        instance: str = "",
        localid: str = "",
        service: str = "",
        timeout_s: float | None = None,
    ) -> Access:
        """Ask a RADIUS server whether somebody, who has proved who it is, may have something.

        ``kind`` and ``instance`` say what, in words of the program.  Other arguments and errors are those of
        ``authenticate``.
        """
        return self.talk(aaa.authorize(identity, kind, instance, localid, service, timeout_s))

    def account(
        self,
        kind: str,
        instance: str = "",
        *,
        identity: str | TlsSession | Access,
        localid: str = "",
        service: str = "",
        at_s: float | None = None,
        resume: bool = False,
    ) -> Account:
        """Begin to bill somebody for something, by way of a RADIUS server; it returns when that is on the disk.

        Args:
            kind: what for, in words of the program, at most 63 bytes; ``instance``: which one, at most 127.
            identity: whom, as in ``authenticate``; an answer has what is billed bear its Class.
            localid, service: as in ``authenticate``.
            at_s: when it began, in seconds since 1970; None is now.
            resume: go on with one of the same kind and instance that was started before, instead of failing.

        Raises:
            Misuse: there is one already.
            Refused: this program may not bill that identity.
            NotAvailable: the pool has no server for that.
            PoolUnavailable: it cannot be kept.
        """
        talk = aaa.start(identity, kind, instance, localid, service, at_s, resume=resume)
        return Account(self, kind, instance, self.talk(talk))
