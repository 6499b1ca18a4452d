"""ManageSieve: STARTTLS of RFC 5804.

A server tells its capabilities again after STARTTLS, without being asked (section 2.2).  So the backend's greeting
is left unread: it goes to the client over TLS, in that place.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from tlspool_admin.preambles.lines import first_word, line, quoted
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, LINES, Refused, Say, Script, Side, Step

_CAPABILITIES = b'"IMPLEMENTATION" "tlspool"\r\n"SIEVE" ""\r\n"STARTTLS"\r\n"VERSION" "1.0"\r\nOK\r\n'
"""No ways to log in, and no language: there is nothing to do but STARTTLS."""


class Sieve(Protocol):
    """ManageSieve."""

    name: ClassVar[str] = "sieve"

    def client(self, names: Names) -> Script:
        """Capabilities, STARTTLS.  What the server says next, over TLS, is the greeting of the application."""
        texts = yield from _completed(Side.CRYPT, "connecting")
        if '"STARTTLS"' not in (first_word(text) for text in texts):
            raise Refused(Side.CRYPT, "the server does not offer STARTTLS, or somebody on the way took the offer out")
        yield Say(Side.CRYPT, b"STARTTLS\r\n")
        yield from _completed(Side.CRYPT, "STARTTLS")
        return b""

    def server(self, names: Names) -> Script:
        """Wait for STARTTLS."""
        yield Say(Side.CRYPT, _CAPABILITIES)
        for _ in range(COMMANDS):
            verb = (yield from line(Side.CRYPT)).upper().rstrip()
            match verb:
                case "STARTTLS":
                    yield Say(Side.CRYPT, b"OK\r\n")
                    return b""
                case "CAPABILITY":
                    yield Say(Side.CRYPT, _CAPABILITIES)
                case "LOGOUT":
                    yield Say(Side.CRYPT, b"OK\r\n")
                    raise Refused(Side.CRYPT, "the client left without TLS")
                case "NOOP":
                    yield Say(Side.CRYPT, b"OK\r\n")
                case _:
                    yield Say(Side.CRYPT, b'NO (ENCRYPT-NEEDED) "Give the command STARTTLS first"\r\n')
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")


def _completed(side: Side, what: str) -> Generator[Step, bytes, list[str]]:
    """Hear the answer to a command, and return the lines before its end."""
    texts: list[str] = []
    while len(texts) <= LINES:
        text = yield from line(side)
        word = first_word(text.replace("(", " ("))
        if word == "OK":
            return texts
        if word in ("NO", "BYE") or text.endswith("}"):  # a literal would hide lines
            raise Refused(side, f"{what} was answered with {quoted(text)}")
        texts.append(text)
    raise Refused(side, f"an answer with more than {LINES} lines")
