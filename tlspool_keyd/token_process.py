"""One module's process: ``python -m tlspool_keyd.token_process FD PARENT [SANDBOX network|local DIRECTORY...]``.

Started by keyd only.

A PKCS #11 module runs here and not in keyd, so that a module which crashes, hangs or fills memory takes no
grant, no channel and no other token with it.  Recipe: lock down, hear TokenOpen, enter the sandbox, load and log in,
forget the PIN, say TokenOpened, serve.  The module never runs outside the sandbox, nor does it start a thread there.

Serving is done by threads, each with its own PKCS #11 sessions.  All wait in recvmsg(2), and the kernel wakes one of
them for each frame: no queue, no lock, and no hand-over between threads on the way of a request.  The one that leaves
nobody waiting starts another, up to as many as there may be signatures at once; so a fast token has few, which stay
in the processor's cache.  C_Sign runs without the GIL (token_sign.py).

Anything unexpected ends the process; keyd answers TOKEN_FAILED for what was under way and starts another.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from setproctitle import setproctitle

from tlspool_common import limits, sandbox, sandbox_profiles
from tlspool_common.channel import Channel, ChannelClosed, Received
from tlspool_common.child import die_with_parent
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.messages import (
    Message,
    Party,
    TokenFind,
    TokenFound,
    TokenList,
    TokenListed,
    TokenOpen,
    TokenOpened,
    TokenSign,
    TokenSigned,
    prose,
)
from tlspool_keyd.lockdown import lock_down
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.token import Module, Station

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an exception nobody expected; a trace is on standard error."""

_STACK_B = 1024 * 1024
"""Of a serving thread.  Modules are written for the 8 MiB of a main thread, but none needs more than this."""


class TokenProcess:
    """The serving half, once the module is open."""

    def __init__(self, channel: Channel, module: Module, sessions: int) -> None:
        channel.let_receive_wait()
        self._channel = channel
        self._module = module
        self._most = sessions
        self._threads = 1
        self._out = threading.Lock()
        self._counting = threading.Lock()
        self._busy = 0

    def serve(self) -> NoReturn:
        """Serve requests, one at a time, for ever."""
        station = self._module.station()
        while True:
            received = self._next()
            self._begin()
            with received:
                answer = answer_to(station, received.message)
            self._send(answer, received.exchange)
            with self._counting:
                self._busy -= 1

    def _begin(self) -> None:
        """A request was taken: let somebody wait for the next one."""
        with self._counting:
            self._busy += 1
            alone = self._busy == self._threads < self._most
            self._threads += alone
        if alone:
            threading.Thread(target=self.serve, daemon=True).start()

    def _next(self) -> Received:
        try:
            while (received := self._channel.receive()) is None:
                continue
            return received
        except ChannelClosed:
            self._leave()

    def _send(self, answer: Message, exchange: int) -> None:
        try:
            with self._out:
                self._channel.send(answer, exchange=exchange)
                while self._channel.wants_write:
                    select.select((), (self._channel,), ())
                    self._channel.flush()
        except ChannelClosed:
            self._leave()

    def _leave(self) -> NoReturn:
        """keyd is gone: log out if nobody is inside the module, and end.

        Of the threads that see it one does this.  It keeps the lock: nobody begins with a request any more.
        """
        self._counting.acquire()
        if self._busy == 0:
            self._module.close()
        os._exit(0)


def answer_to(station: Station, message: Message) -> Message:
    """Do what is asked; trouble becomes a code and a detail."""
    try:
        if isinstance(message, TokenSign):
            signature = station.sign(message.uri, message.scheme, message.spki_sha256, message.content)
            return TokenSigned(code=Code.OK, detail="", signature=signature)
        if isinstance(message, TokenFind):
            return TokenFound(code=Code.OK, detail="", spki=station.find(message.uri).spki)
        if isinstance(message, TokenList):
            uris = [uri for uri in station.list_keys() if len(uri) <= limits.KEY_URI_B][message.skip :]
            lines = tuple(key_line(station, uri) for uri in uris[: limits.LISTED_KEYS])
            return TokenListed(code=Code.OK, detail="", keys=lines, more=len(uris) > limits.LISTED_KEYS)
    except PoolError as error:
        detail = prose(error.detail)
        if isinstance(message, TokenSign):
            return TokenSigned(code=error.code, detail=detail, signature=b"")
        if isinstance(message, TokenList):
            return TokenListed(code=error.code, detail=detail, keys=(), more=False)
        return TokenFound(code=error.code, detail=detail, spki=b"")
    raise AssertionError(f"{type(message).__name__} is not in the table for a token process")


def _confined(words: list[str], order: TokenOpen) -> tuple[None, TokenOpened] | None:
    """Enter the sandbox; return the answer if that cannot be."""
    try:
        sandbox.enter(sandbox_profiles.token(words[1:], order.module), words[0], Log("token"))
    except PoolError as error:
        return None, TokenOpened(code=Code.TOKEN_FAILED, detail=prose(str(error)), tokens=())
    return None


def key_line(station: Station, uri: str) -> str:
    """Describe a key as it would be found for a signature."""
    try:
        return f"{station.find(uri).kind.name} ready {uri}"
    except PoolError as error:
        return f"- {error.code.name} {uri}"


def open_module(order: TokenOpen) -> tuple[Module | None, TokenOpened]:
    """Load the module and log in; the answer says how that went."""
    module = None
    try:
        module = Module(order.module)
        typed = dict(zip(order.typed_pin_tokens, order.typed_pin_secrets, strict=True))
        module.open(parse_untrusted(order.token_uri), order.pin_secret, order.pin_refused_by, typed)
        code, detail = module.verdict()
    except PoolError as error:
        code, detail = error.code, error.detail
    lines = tuple(str(token) for token in module.tokens[:64]) if module else ()
    return module, TokenOpened(code=code, detail=prose(detail), tokens=lines)


def _end_on_bug(args: Any) -> None:
    """Replace threading.excepthook: a thread that dies would leave its request unanswered."""
    _bug(args.exc_type, args.exc_value, args.exc_traceback)


def _bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> NoReturn:
    sys.stderr.write("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.flush()
    os._exit(EXIT_BUG)


def main(argv: list[str]) -> NoReturn:
    """Run the process; see the module's docstring."""
    die_with_parent(int(argv[2]))
    lock_down()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; keyd decides when we end
    sys.excepthook = _bug
    threading.excepthook = _end_on_bug
    threading.stack_size(_STACK_B)
    channel = Channel(socket.socket(fileno=int(argv[1])), Party.TOKEN, Party.KEYD)
    os.set_inheritable(channel.fileno(), False)
    try:
        sessions, module = _open(channel, argv[3:] or [sandbox.REQUIRED])
    except ChannelClosed:
        os._exit(0)
    TokenProcess(channel, module, sessions).serve()


def _open(channel: Channel, words: list[str]) -> tuple[int, Module]:
    """Hear TokenOpen and answer it.  The PIN is in this frame only, and gone when it returns."""
    while (received := channel.receive()) is None:
        select.select((channel,), (), ())
    with received:
        order = received.message
    if not isinstance(order, TokenOpen):
        raise AssertionError(f"{type(order).__name__} is not in the table for a token process")
    setproctitle(f"tlspool-keyd: token {_label(order)}")
    module, opened = _confined(words, order) or open_module(order)
    channel.send(opened, exchange=received.exchange)
    if module is None or opened.code != Code.OK:
        if module is not None:
            module.close()
        os._exit(0)
    return max(1, order.sessions), module


def _label(order: TokenOpen) -> str:
    """Return what the configuration calls the token; where it leaves that open, what it calls the library."""
    try:
        label = parse_untrusted(order.token_uri).attributes.get("token", b"").decode("utf-8", "replace")
    except PoolError:  # that is told when it is opened
        label = ""
    return label if label and label.isprintable() else Path(order.module).name


if __name__ == "__main__":
    main(sys.argv)
