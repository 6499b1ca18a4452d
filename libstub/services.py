"""Programs that serve a pool: asking people for PINs, and letting them choose an identity.

    def ask(question):
        return getpass.getpass(f"PIN of {question.label}: ")

    libstub.PinService(ask).run()

    def choose(question):
        return question.entries[0].localid if question.entries else None

    libstub.LocalidService(choose).run()

Each has a connection of its own, and one thing to do at a time: ``run`` waits for questions, and calls the function
with each.  It returns after ``stop``, and raises a PoolError when the pool will not have the service (any more).

The rules are the pool's: one PIN service at a time, and only of users that its configuration names; one program that
chooses identities for each user.  docs/services.md tells both sides.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from libstub.errors import Misuse, PoolUnavailable, ProtocolError, from_reply_untrusted
from libstub.line import connect
from libstub.where import socket_path
from tlspool_common import errors
from tlspool_common.appwire import FRAME_B, BadPayload, Cmd, ErrorReply, Frame, frame_untrusted
from tlspool_common.fd import await_ready
from tlspool_common.identity import generalise, parse_selector_untrusted, parse_untrusted
from tlspool_common.servicewire import CHOICE_REGISTRATION, Asker, ChoiceFlag, Lidentry, Pinentry

CONNECT_S = 5.0
"""For connecting: a pool accepts at once, or is overloaded."""

ANSWER_S = 15.0
"""For what a pool answers at once."""

_PIN_AT = 8 + 12
_PIN_B = 127


@dataclass(frozen=True, slots=True)
class PinQuestion:
    """A token needs its PIN.

    Attributes:
        attempt: 0, or how many PINs were wrong before this question.
        prompt: what the pool suggests to show.
        label, manufacturer, model, serial: of the token.
    """

    attempt: int
    prompt: str
    label: str
    manufacturer: str
    model: str
    serial: str


@dataclass(frozen=True, slots=True)
class DisclosedEntry:
    """What the disclose database says already: ``selector`` is ``levels`` steps more general than the remote."""

    localid: str
    selector: str
    levels: int


@dataclass(frozen=True, slots=True)
class LocalidQuestion:
    """An application needs an identity to show to a remote.

    Attributes:
        remoteid: the remote.
        suggestion: the identity that the application named, or ''.
        entries: what the database has for the most concrete selector that it has anything for.
        selectors: for whom the choice may be stored: the remote itself, and what is more general, in this order.
        deadline_s: the UNIX time by which the answer must be there.
        uid, pid, program, service: who wants it, as far as the pool tells; ``service`` is the application's word.
    """

    remoteid: str
    suggestion: str
    entries: tuple[DisclosedEntry, ...]
    selectors: tuple[str, ...]
    deadline_s: int
    uid: int = -1
    pid: int = 0
    program: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class LocalidChoice:
    """The identity to show, '' for none.

    Attributes:
        store: whether the database should know it from now on, as the first or the last one for ``selector``.  It is
            stored when the handshake has succeeded.
        selector: one of the question's; '' is the remote itself.
        move: if it is stored already, put it where ``store`` says.
    """

    localid: str
    store: Literal["no", "first", "last"] = "no"
    selector: str = ""
    move: bool = False


class _Service:
    """A connection to the pool over which it asks, and we answer."""

    def __init__(self, pool: str | os.PathLike[str] | None) -> None:
        self._path = socket_path(pool)
        self._sock = connect(self._path, CONNECT_S)
        self._stopping = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)

    @property
    def wakeup_fd(self) -> int:
        """For signal.set_wakeup_fd: then a signal that comes as ``run`` begins to wait is heard, whatever it means."""
        return self._waker.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the pool frees the post at once."""
        for sock in (self._sock, self._wake, self._waker):
            sock.close()

    def stop(self) -> None:
        """Let ``run`` return; from another thread, or a signal handler (then see ``wakeup_fd``)."""
        self._stopping.set()
        with suppress(OSError):
            self._waker.send(b"x")

    def _send(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            await_ready([self._sock.fileno()], ANSWER_S, select.POLLOUT)
            try:
                view = view[self._sock.send(view, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                raise PoolUnavailable(f"the pool at {self._path} does not read") from None
            except OSError as error:
                raise PoolUnavailable(f"the connection to the pool failed: {error.strerror}") from None

    def _receive(self, seconds: float | None = None) -> Frame | None:
        """Wait for a frame; None when it is time to stop.

        Raises:
            PoolError: the pool said ERROR, or nothing in time, or closed the connection.
        """
        data = bytearray()
        while len(data) < FRAME_B:
            is_there = self._wait(seconds)
            if self._stopping.is_set():
                return None
            if not is_there:
                raise PoolUnavailable(f"the pool at {self._path} does not answer")
            try:
                more = self._sock.recv(FRAME_B - len(data))
            except BlockingIOError:
                continue
            except OSError as error:
                raise PoolUnavailable(f"the connection to the pool failed: {error.strerror}") from None
            if not more:
                raise PoolUnavailable(f"the pool at {self._path} closed the connection: it stopped, or was restarted")
            data += more
        frame = frame_untrusted(bytes(data))
        if frame.cmd == Cmd.ERROR:
            raise from_reply_untrusted(ErrorReply.from_payload_untrusted(frame.payload))
        return frame

    def _wait(self, seconds: float | None) -> bool:
        """Wait until there is something to read or it is time to stop; False when time is up."""
        end_s = None if seconds is None else time.monotonic() + seconds
        while not self._stopping.is_set():
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            found = await_ready([self._sock.fileno(), self._wake.fileno()], left_s)
            if self._wake.fileno() in found:
                self._wake.recv(64)  # a signal has come; its handler has run by now
            if self._sock.fileno() in found:
                return True
            if not found:
                return False
        return True

    def _refuse(self, frame: Frame, text: str) -> None:
        """Answer a callback with ERROR."""
        payload = ErrorReply(errno.ECANCELED, text).to_payload()
        self._send(Frame(frame.reqid, frame.cbid, Cmd.ERROR, payload).to_bytes())


class PinService(_Service):
    """Asks people for PINs on behalf of a pool.

    ``ask`` gets a PinQuestion, and returns the PIN (str, bytes, or a bytearray, which is overwritten), or None or an
    empty one for none.  ``timeout_s``: how long the post is kept for this program while it asks.  ``pool`` is a path:
    the pool's application socket, or keyd's ``pin.sock``.

    Raises:
        Misuse, Refused, PoolUnavailable: no connection to the pool.
    """

    def __init__(
        self,
        ask: Callable[[PinQuestion], str | bytes | bytearray | None],
        *,
        pool: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if not 0 <= timeout_s * 1_000_000 <= 0xFFFFFFFF:
            raise Misuse("timeout_s must be from 0 to 4294 seconds")
        super().__init__(pool)
        self._ask = ask
        self._timeout_us = int(timeout_s * 1_000_000)

    def run(self, quiet_s: float | None = None) -> None:
        """Register, and answer questions until ``stop``, or until there was none for so long after an answer.

        Raises:
            Refused: another program is the PIN service, or this user may not be.
            PoolUnavailable: the pool stopped, or keyd is not there.
            ProtocolError: what came is no question.
        """
        self._send(Frame(0, 0, Cmd.PINENTRY, Pinentry(timeout_us=self._timeout_us).to_payload()).to_bytes())
        frame = self._receive()
        while frame is not None:
            question = _pin_question_untrusted(frame)
            try:
                pin_secret = _octets(self._ask(question))
            except BaseException:
                with suppress(PoolUnavailable):
                    self._refuse(frame, "the program that asks for PINs has failed")
                raise
            answer = bytearray(frame.to_bytes())
            answer[_PIN_AT : _PIN_AT + len(pin_secret)] = pin_secret
            try:
                self._send(answer)
            finally:
                answer[:] = bytes(len(answer))
                pin_secret[:] = bytes(len(pin_secret))
            if quiet_s is not None and not self._wait(quiet_s):
                return
            frame = self._receive()


def _pin_question_untrusted(frame: Frame) -> PinQuestion:
    if frame.cmd != Cmd.PINENTRY or not frame.cbid:
        raise ProtocolError(f"the pool sent command {frame.cmd:#x} where it makes no sense")
    try:
        asked = Pinentry.from_payload_untrusted(frame.payload)
    except BadPayload as error:
        raise ProtocolError(f"the pool sent a malformed frame: {error}") from None
    if asked.pin_secret:
        raise ProtocolError("the pool sent a PIN")
    return PinQuestion(
        asked.attempt, asked.prompt, asked.token_label, asked.token_manuf, asked.token_model, asked.token_serial
    )


def _octets(pin_secret: str | bytes | bytearray | None) -> bytearray:
    """Return a PIN as bytes that can be overwritten.

    Raises:
        Misuse: it does not fit its field; it is not shown.
    """
    if isinstance(pin_secret, bytearray):
        found = pin_secret
    else:
        found = bytearray((pin_secret or "").encode() if not isinstance(pin_secret, bytes) else pin_secret)
    if len(found) > _PIN_B or 0 in found:
        raise Misuse(f"a PIN has at most {_PIN_B} bytes, and no NUL")
    return found


class LocalidService(_Service):
    """Lets people choose who they are, when a client of theirs needs an identity.

    ``choose`` gets a LocalidQuestion and returns an identity, a LocalidChoice, or None for none.  What it raises
    refuses the session that asked, and ends ``run``.

    ``skip`` are SKIP_ flags (ChoiceFlag) that say which entries of the database may be used without asking: none, if
    it is 0.  ``timeout_s``: for an answer; a session that has none by then fails.

    Raises:
        Misuse, Refused, PoolUnavailable: no connection to the pool.
    """

    def __init__(
        self,
        choose: Callable[[LocalidQuestion], LocalidChoice | str | None],
        *,
        pool: str | os.PathLike[str] | None = None,
        timeout_s: int = 300,
        skip: int = 0,
    ) -> None:
        if not 0 < timeout_s < 1 << 31 or skip & ~0xFF:
            raise Misuse("timeout_s must be above 0, and skip be made of SKIP_ flags")
        super().__init__(pool)
        self._choose = choose
        self._timeout_s = int(timeout_s)
        self._flags = skip | ChoiceFlag.WANT_DBENTRY

    def run(self) -> None:
        """Register, and answer questions until ``stop``.

        Raises:
            Refused: another program of this user chooses identities already.
            PoolUnavailable: the pool stopped.
            ProtocolError: what came is no question.
        """
        registration = Lidentry(flags=self._flags, timeout_s=self._timeout_s)
        self._send(Frame(0, 0, Cmd.LIDENTRY_REGISTER, registration.to_payload()).to_bytes())
        entries: list[tuple[DisclosedEntry, int]] = []
        while (frame := self._receive()) is not None:
            asked = _choice_question_untrusted(frame)
            if asked.flags & ChoiceFlag.DBENTRY:
                entries.append((DisclosedEntry(asked.localid, asked.remoteid, asked.maxlevels), asked.timeout_s))
                self._send(frame.to_bytes())
                continue
            asker = self._ask_who()
            if asker is None:
                return
            # Of a session that failed in the middle, entries may have come without a question.
            shown = (entries[-1][0].selector, asked.timeout_s) if entries else None
            question = LocalidQuestion(
                remoteid=asked.remoteid,
                suggestion=asked.localid,
                entries=tuple(one for one, deadline_s in entries if (one.selector, deadline_s) == shown),
                selectors=_selectors(asked),
                deadline_s=asked.timeout_s,
                uid=asker.uid,
                pid=asker.pid,
                program=asker.label,
                service=asker.service,
            )
            entries = []
            self._answer(frame, asked, question)

    def _ask_who(self) -> Asker | None:
        """Ask who wants an identity; None when it is time to stop."""
        self._send(Frame(1, 0, Cmd.LOCAL_ASKER).to_bytes())
        try:
            frame = self._receive(ANSWER_S)
            return None if frame is None else Asker.from_payload_untrusted(frame.payload)
        except BadPayload as error:
            raise ProtocolError(f"the pool sent a malformed frame: {error}") from None
        except Misuse:
            return Asker()  # a pool that does not know the question

    def _answer(self, frame: Frame, asked: Lidentry, question: LocalidQuestion) -> None:
        try:
            payload = _choice(self._choose(question), asked, question).to_payload()
        except BaseException:
            # The pool sends the ERROR back, and that is the end.
            with suppress(PoolUnavailable):
                self._refuse(frame, "the program that chooses identities has failed")
            raise
        self._send(Frame(frame.reqid, frame.cbid, Cmd.LIDENTRY_CALLBACK, payload).to_bytes())


def _choice_question_untrusted(frame: Frame) -> Lidentry:
    if frame.cmd != Cmd.LIDENTRY_CALLBACK or not frame.cbid:
        raise ProtocolError(f"the pool sent command {frame.cmd:#x} where it makes no sense")
    try:
        return Lidentry.from_payload_untrusted(frame.payload)
    except BadPayload as error:
        raise ProtocolError(f"the pool sent a malformed frame: {error}") from None


def _selectors(asked: Lidentry) -> tuple[str, ...]:
    try:
        return tuple(generalise(parse_untrusted(asked.remoteid)))[: asked.maxlevels + 1]
    except errors.PoolError:
        return (asked.remoteid,)


def _choice(chosen: LocalidChoice | str | None, asked: Lidentry, question: LocalidQuestion) -> Lidentry:
    """Write a choice into an answer.

    Raises:
        Misuse: it is none of what was possible.
    """
    choice = chosen if isinstance(chosen, LocalidChoice) else LocalidChoice(chosen or "")
    selector = choice.selector or question.remoteid
    try:
        localid = str(parse_untrusted(choice.localid)) if choice.localid else ""
        selector = str(parse_selector_untrusted(selector))
    except errors.PoolError as error:
        raise Misuse(error.detail) from None
    if selector not in question.selectors:
        raise Misuse(f"{selector} is none of {', '.join(question.selectors)}")
    flags = asked.flags & CHOICE_REGISTRATION
    if choice.store != "no":
        flags |= ChoiceFlag.DBINSERT if choice.store == "first" else ChoiceFlag.DBAPPEND
        flags |= ChoiceFlag.DBREORDER if choice.move else 0
    return replace(asked, flags=flags, localid=localid, remoteid=selector)
