"""The operator's sockets: one request a line, one JSON object an answer.

A request is either bare words, for people (``printf 'status\\n' | socat - UNIX:/run/tlspool/broker.sock``),
or a JSON object with a ``cmd``, for programs.  Words behind the first become ``args``.  Both answers are JSON with the
same content: for people a line for each fact and for each row of a list, in columns (``laid_out``), for programs one
line.  Every answer has ``ok``; a refusal has ``code`` and ``error``.

Nobody who connects can keep others from being served: there are at most CLIENTS connections, of which the one that
has been idle longest gives way to a new one, and who does not read its answer is sent away.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlspool_common import peer
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import SHORT
from tlspool_common.setting_errors import SettingError

CLIENTS = 64
"""Connections to a control socket at a time.  A host has a few operators and a monitoring system; each connection
costs a descriptor, and may cost as much memory as the longest request and the longest answer."""

READ_S = 30.0
"""For a client to read its answer; one on a stopped terminal can ask again."""

PAUSE_S = 1.0
"""Before accepting again when that has failed for want of descriptors or memory: operators wait in the backlog."""

LINE_B = 1024 * 1024
"""Longest request, where nobody says otherwise: a certificate chain in base64 fits many times."""

NESTING = 16
"""Lists and objects in each other: a batch has five.  What has hundreds is read, and then nobody can show it."""

Request = dict[str, object]
Answer = dict[str, object]
Handler = Callable[[Request], Answer]
AsyncHandler = Callable[[Request], Awaitable[Answer]]
EitherHandler = Callable[[Request], Answer | Awaitable[Answer]]

PEER_UID = "peer_uid"
"""The field in which a handler of ``serve`` finds who asks, by word of the kernel; nobody can send it."""


def request_untrusted(line: bytes) -> tuple[Request, bool]:
    """Read a request; say whether the answer is for people.

    Raises:
        PoolError: FIELD_MALFORMED.
    """
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise PoolError(Code.FIELD_MALFORMED, "the request is not UTF-8") from None
    if not text.startswith("{"):
        words = text.split()
        if not words:
            raise PoolError(Code.FIELD_MALFORMED, "the request is empty; try: status")
        return {"cmd": words[0], "args": words[1:]}, True
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PoolError(Code.FIELD_MALFORMED, f"the request is no JSON object: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
        raise PoolError(Code.FIELD_MALFORMED, 'the request has no "cmd"')
    if text.count("[") + text.count("{") > NESTING and _is_deep(request):
        raise PoolError(Code.FIELD_MALFORMED, f"the request has more than {NESTING} lists and objects in each other")
    return request, False


def _is_deep(request: Request) -> bool:
    level: list[object] = [request]
    for _ in range(NESTING):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return False
        level = inner
    return _has_inner(level, (dict, list))


def _has_inner(values: Iterable[object], kinds: tuple[type, ...]) -> bool:
    return any(issubclass(kind, kinds) for kind in set(map(type, values)))


def render(answer: Mapping[str, object], for_people: bool) -> bytes:
    """Write an answer; one that is text already, people get as it is."""
    text = answer.get("text")
    if for_people and isinstance(text, str) and set(answer) == {"ok", "text"}:
        return text.encode()
    text = laid_out(answer) if for_people else json.dumps(answer, ensure_ascii=True)
    return text.encode() + b"\n"


def laid_out(value: object, indent: str = "") -> str:
    """Write JSON for people: what is flat on one line, rows of a list one below the other, with aligned columns."""
    deeper = indent + "  "
    if isinstance(value, Mapping) and value and (indent == "" or not _is_flat(value)):
        lines = [f"{deeper}{json.dumps(str(name))}: {laid_out(one, deeper)}" for name, one in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and _has_inner(value, (Mapping, list)):
        rows = _columns(value) if all(map(_is_flat, value)) else [laid_out(one, deeper) for one in value]
        return "[\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=True)


def _is_flat(value: object) -> bool:
    """Whether an object fits a line: it has nothing but plain values, and lists of such."""
    if not isinstance(value, Mapping):
        return False
    lists = [one for one in value.values() if isinstance(one, list)]
    plain = not _has_inner(value.values(), (Mapping,))
    return plain and not any(_has_inner(one, (Mapping, list)) for one in lists)


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Write objects in columns, where all have the same fields."""
    written = [[f"{json.dumps(str(name))}: {json.dumps(value)}" for name, value in row.items()] for row in rows]
    if len({tuple(row) for row in rows}) > 1 or not written[0]:
        return ["{" + ", ".join(cells) + "}" for cells in written]
    widths = [max(map(len, column)) + 1 for column in zip(*written, strict=True)]
    widths[-1] = 0
    return [
        "{"
        + " ".join(f"{cell},".ljust(width) if width else cell for cell, width in zip(cells, widths, strict=True))
        + "}"
        for cells in written
    ]


def refusal(error: PoolError) -> Answer:
    """Make the answer for an error."""
    answer: Answer = {"ok": False, "code": int(error.code), "error": str(error)}
    if isinstance(error, SettingError):
        answer["problems"] = error.rows()
    return answer


def answer_untrusted(line: bytes, handler: Handler) -> bytes:
    """Read a request, let it be handled, write the answer; refusals are answers too."""
    for_people = not line.lstrip().startswith(b"{")
    try:
        request, for_people = request_untrusted(line)
        return render({"ok": True, **handler(request)}, for_people)
    except PoolError as error:
        return render(refusal(error), for_people)


@dataclass(slots=True, eq=False)
class Client:
    """A connection; ``busy`` while its request is handled, when it does not give way."""

    writer: asyncio.StreamWriter
    busy: bool = False


class Clients:
    """The connections of one listener, at most so many, the one that has been idle longest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: dict[Client, None] = {}

    def enter(self, writer: asyncio.StreamWriter) -> Client | None:
        """Add one, for which another may have to go; None: all are busy."""
        if len(self._all) >= self._most:
            idle = next((one for one in self._all if not one.busy), None)
            if idle is None:
                return None
            del self._all[idle]
            idle.writer.transport.abort()
        client = Client(writer)
        self._all[client] = None
        return client

    def idle(self, client: Client) -> None:
        """Its request is handled."""
        client.busy = False
        if client in self._all:
            del self._all[client]
            self._all[client] = None

    def leave(self, client: Client) -> None:
        """It is gone."""
        self._all.pop(client, None)


async def _converse(
    reader: asyncio.StreamReader, client: Client, clients: Clients, handler: EitherHandler, uid: int, line_b: int
) -> None:
    writer = client.writer
    writer.transport.set_write_buffer_limits(
        0
    )  # what drain waits for: that there is not more than one answer in memory
    try:
        while line := await reader.readline():
            client.busy = True
            for_people = not line.lstrip().startswith(b"{")
            try:
                request, for_people = request_untrusted(line)
                request[PEER_UID] = uid
                result = handler(request)
                answer = result if isinstance(result, dict) else await result
                data = render({"ok": True, **answer}, for_people)
            except PoolError as error:
                data = render(refusal(error), for_people)
            writer.write(data)
            await asyncio.wait_for(writer.drain(), READ_S)
            clients.idle(client)
    except ValueError:  # StreamReader: a line beyond the limit
        writer.write(render(refusal(PoolError(Code.FIELD_MALFORMED, f"a request has at most {line_b} bytes")), True))
    except TimeoutError:  # it does not read
        writer.transport.abort()
    except (ConnectionError, asyncio.CancelledError):
        pass  # the client has gone, or the daemon ends: Python 3.11 would call the latter an error
    finally:
        with suppress(ConnectionError, OSError):
            writer.close()


def bind(path: Path, mode: int, kind: int = socket.SOCK_STREAM, owner: tuple[int, int] = (-1, -1)) -> socket.socket:
    """Listen at ``path``, replacing the socket a predecessor left behind; ``owner`` is user and group, -1 our own.

    Raises:
        PoolError: SETTING_INVALID, the path cannot be used.
    """
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
        mask = os.umask(0o777 & ~mask_of(mode))
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        if owner != (-1, -1):
            os.chown(path, *owner)
        path.chmod(mode)
        sock.listen(128)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PoolError(Code.SETTING_INVALID, f"cannot listen at {path}: {error.strerror or error}") from None
    return sock


def mask_of(mode: int) -> int:
    """Return the bits a file may have while it is made: never more than it will have."""
    return mode & 0o777


async def serve(
    path: Path,
    handler: EitherHandler,
    mode: int = 0o660,
    strangers: Container[int] = (),
    stranger_pids: Container[int] = (),
    line_b: int = LINE_B,
    passed: socket.socket | None = None,
) -> asyncio.Server:
    """Serve a control socket on the running loop; users that are ``strangers`` are sent away, and so are processes.

    The socket is the one that systemd has ``passed``, or is made at ``path``.
    """
    clients = Clients(CLIENTS)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid, _ = peer.credentials(writer.get_extra_info("socket"))
        client = None if uid in strangers or pid in stranger_pids else clients.enter(writer)
        if client is None:
            writer.close()
            return
        try:
            await _converse(reader, client, clients, handler, uid, line_b)
        finally:
            clients.leave(client)

    return await asyncio.start_unix_server(converse, sock=passed or bind(path, mode), limit=line_b)


def paused(context: Mapping[str, Any]) -> OSError | None:
    """Return why nobody is accepted for a moment, if that is what asyncio tells the handler of exceptions.

    It goes on by itself (asyncio.constants.ACCEPT_RETRY_DELAY), and what it tells is no bug.
    """
    error = context.get("exception")
    return error if "socket" in context and isinstance(error, OSError) and error.errno in SHORT else None


class LineServer:
    """A control socket for a process that has its own loop: poll ``interests()`` for ``wait_s``, call ``ready(fd)``."""

    def __init__(self, path: Path, handler: Handler, mode: int = 0o660, passed: socket.socket | None = None) -> None:
        self._listener = passed or bind(path, mode)
        self._handler = handler
        self._clients: dict[int, _Talk] = {}  # the one that was heard of longest ago first
        self._pause_until_s = 0.0

    def filenos(self) -> list[int]:
        """Return the descriptors to poll: the listener first."""
        return [self._listener.fileno(), *self._clients]

    def interests(self) -> dict[int, int]:
        """Return what to poll each descriptor for: who has not read its answer is not listened to."""
        waits = {fd: select.POLLOUT if talk.unsent else select.POLLIN for fd, talk in self._clients.items()}
        return waits if self.wait_s is not None else {self._listener.fileno(): select.POLLIN, **waits}

    @property
    def wait_s(self) -> float | None:
        """Return how long to poll at most until connections are accepted again; None: they are."""
        left_s = self._pause_until_s - time.monotonic()
        return left_s if left_s > 0 else None

    def close(self) -> None:
        """Close the listener and all clients (in a forked child, too)."""
        self._listener.close()
        for talk in self._clients.values():
            talk.sock.close()
        self._clients.clear()

    def ready(self, fd: int) -> None:
        """Do what is to be done on a descriptor that is ready; never blocks."""
        if fd == self._listener.fileno():
            self._accept()
        elif (talk := self._clients.pop(fd, None)) is not None:
            self._clients[fd] = talk  # now the last; and here meanwhile, so that a child which is forked closes it
            if not self._go_on(talk):
                self._clients.pop(fd, None)
                talk.sock.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:  # else the fault of that one connection, which is gone (accept(2))
            if error.errno in SHORT:
                self._pause_until_s = time.monotonic() + PAUSE_S
            return
        client.setblocking(False)
        if len(self._clients) >= CLIENTS:
            self._clients.pop(next(iter(self._clients))).sock.close()
        self._clients[client.fileno()] = _Talk(client)

    def _go_on(self, talk: _Talk) -> bool:
        """Send or receive; return whether there is more to come."""
        if not talk.unsent:
            try:
                data = talk.sock.recv(65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            talk.heard += data
            if not data or len(talk.heard) > LINE_B:
                return False
        while talk.unsent or (end := talk.heard.find(b"\n")) >= 0:
            if not talk.unsent:
                talk.unsent += answer_untrusted(bytes(talk.heard[:end]), self._handler)
                del talk.heard[: end + 1]
            try:
                del talk.unsent[: talk.sock.send(talk.unsent)]
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True


@dataclass(slots=True, eq=False)
class _Talk:
    """A client of a LineServer: what it has said so far, and what it has not read yet of the answer."""

    sock: socket.socket
    heard: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
