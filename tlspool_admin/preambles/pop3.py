"""POP3: STLS of RFC 2595, CAPA of RFC 2449."""

from __future__ import annotations

from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, first_word, line, quoted, until_dot
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, Refused, Say, Script, Side

_HIDDEN = frozenset({"STLS", "USER", "SASL", "APOP"})
"""Ours takes the place of the backend's; nobody logs in before TLS."""


class Pop3(Protocol):
    """POP3."""

    name: ClassVar[str] = "pop3"
    asks_backend: ClassVar[bool] = True

    def client(self, names: Names) -> Script:
        """Greeting, STLS.  The greeting that is made up has no timestamp, so there is no APOP."""
        for command, what in ((b"", "connecting"), (b"STLS\r\n", "STLS")):
            if command:
                yield Say(Side.CRYPT, command)
            text = yield from line(Side.CRYPT)
            if first_word(text) != "+OK":
                raise Refused(Side.CRYPT, f"{what} was answered with {quoted(text)}")
        return encoded(f"+OK {names.domain}")

    def server(self, names: Names) -> Script:
        """Let the backend greet, tell its capabilities, and wait for STLS."""
        greeting = yield from line(Side.PLAIN)
        if first_word(greeting) != "+OK":
            yield Say(Side.CRYPT, encoded(greeting))
            raise Refused(Side.PLAIN, f"connecting was answered with {quoted(greeting)}")
        yield Say(Side.PLAIN, b"CAPA\r\n")
        text = yield from line(Side.PLAIN)
        capabilities = (yield from until_dot(Side.PLAIN)) if first_word(text) == "+OK" else []
        shown = [text for text in capabilities if first_word(text) not in _HIDDEN]
        # APOP's timestamp goes through: it is the backend's challenge, and is worth nothing to others.
        yield Say(Side.CRYPT, encoded(greeting))
        for _ in range(COMMANDS):
            verb = (yield from line(Side.CRYPT)).upper().rstrip()
            if verb == "STLS":
                yield Say(Side.CRYPT, b"+OK Begin TLS\r\n")
                return b""
            if verb == "CAPA":
                texts = ["+OK", *shown, "STLS", "."]
                yield Say(Side.CRYPT, b"".join(encoded(text) for text in texts))
            elif verb == "QUIT":
                yield Say(Side.CRYPT, b"+OK Bye\r\n")
                raise Refused(Side.CRYPT, "the client left without TLS")
            else:
                yield Say(Side.CRYPT, b"-ERR Give the command STLS first\r\n")
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")
