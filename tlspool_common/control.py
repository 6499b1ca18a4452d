"""The operator's sockets: one request a line, one JSON object an answer.

A request is either bare words, for people (``printf 'status\\n' | socat - UNIX:/run/tlspool/broker.sock``),
or a JSON object with a ``cmd``, for programs.  Words behind the first become ``args``.  The answer to words
is indented; the answer to JSON is one line.  Every answer has ``ok``; a refusal has ``code`` and ``error``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Container, Mapping
from contextlib import suppress
from pathlib import Path

from tlspool_common import peer
from tlspool_common.errors import Code, PoolError
from tlspool_common.setting_errors import SettingError

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
    if _is_deep(request):
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
    return any(isinstance(each, dict | list) for each in level)


def render(answer: Mapping[str, object], for_people: bool) -> bytes:
    """Write an answer; one that is text already, people get as it is."""
    text = answer.get("text")
    if for_people and isinstance(text, str) and set(answer) == {"ok", "text"}:
        return text.encode()
    text = json.dumps(answer, indent=2 if for_people else None, ensure_ascii=True)
    return text.encode() + b"\n"


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


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: EitherHandler, uid: int, line_b: int
) -> None:
    try:
        while line := await reader.readline():
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
            await writer.drain()
    except ValueError:  # StreamReader: a line beyond the limit
        writer.write(render(refusal(PoolError(Code.FIELD_MALFORMED, f"a request has at most {line_b} bytes")), True))
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
    line_b: int = LINE_B,
    passed: socket.socket | None = None,
) -> asyncio.Server:
    """Serve a control socket on the running loop; users that are ``strangers`` are sent away.

    The socket is the one that systemd has ``passed``, or is made at ``path``.
    """

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer.credentials(writer.get_extra_info("socket")).uid
        if uid in strangers:
            writer.close()
        else:
            await _converse(reader, writer, handler, uid, line_b)

    return await asyncio.start_unix_server(converse, sock=passed or bind(path, mode), limit=line_b)


class LineServer:
    """A control socket for a process that has its own loop: poll ``filenos()`` for reading, call ``ready(fd)``."""

    def __init__(self, path: Path, handler: Handler, mode: int = 0o660, passed: socket.socket | None = None) -> None:
        self._listener = passed or bind(path, mode)
        self._handler = handler
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}

    def filenos(self) -> list[int]:
        """Return the descriptors to poll for reading: the listener first."""
        return [self._listener.fileno(), *self._clients]

    def close(self) -> None:
        """Close the listener and all clients (in a forked child, too)."""
        self._listener.close()
        for sock, _ in self._clients.values():
            sock.close()
        self._clients.clear()

    def ready(self, fd: int) -> None:
        """Do what is to be done on a readable descriptor; never blocks."""
        if fd == self._listener.fileno():
            with suppress(BlockingIOError, ConnectionError):
                client, _ = self._listener.accept()
                client.setblocking(False)
                self._clients[client.fileno()] = (client, bytearray())
            return
        sock, buffer = self._clients[fd]
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        keep = bool(data) and len(buffer) <= LINE_B
        while keep and (end := buffer.find(b"\n")) >= 0:
            answer = answer_untrusted(bytes(buffer[:end]), self._handler)
            del buffer[: end + 1]
            try:
                # An answer is a few KiB; a client that does not even read that is not waited for.
                keep = sock.send(answer) == len(answer)
            except OSError:
                keep = False
        if not keep:
            del self._clients[fd]
            sock.close()
