"""Ask a control socket: one JSON line there, one back."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tlspool_common.errors import Code, PoolError, code_of

_ANSWER_B = 256 * 1024 * 1024
"""Longest answer: some 100 000 sessions or identities."""

_TIMEOUT_S = 30.0
"""A daemon answers at once; a token that keyd is asked about may take its pkcs11_timeout_s, 10."""


class NotReachable(OSError):
    """A daemon does not answer on its control socket; ``nobody`` listens there, or one does and says nothing."""

    def __init__(self, text: str, *, nobody: bool = False) -> None:
        super().__init__(text)
        self.nobody = nobody


class Refused(PoolError):
    """A daemon's refusal, in the daemon's words."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(code, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def ask(path: Path, request: dict[str, object], timeout_s: float = _TIMEOUT_S) -> dict[str, object]:
    """Send a request and return the answer.

    Raises:
        NotReachable: nobody answers there.
        Refused: the daemon said no; has its code.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline(_ANSWER_B)
    except OSError as error:
        raise NotReachable(
            f"no answer at {path}: {error.strerror or error}; {_remedy(error)}",
            nobody=isinstance(error, FileNotFoundError | ConnectionRefusedError),
        ) from None
    return answer_untrusted(line, path)


def answer_untrusted(line: bytes, path: Path) -> dict[str, object]:
    """Read the answer that came from a path.

    Raises:
        NotReachable: it is not whole.
        Refused: the daemon said no; has its code.
    """
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not line.endswith(b"\n"):
        raise NotReachable(f"{path} gave no whole answer; see the daemon's log")
    if answer.get("ok") is not True:
        code = answer.get("code")
        raise Refused(code_of(code if isinstance(code, int) else 0), str(answer.get("error", "refused")))
    return answer


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "you need to be in the group that the socket belongs to"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "does the daemon run?"
    return "see the daemon's log"
