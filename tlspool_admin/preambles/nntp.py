"""NNTP: STARTTLS of RFC 4642."""

from __future__ import annotations

from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, expect, first_word, line, quoted, reply, until_dot
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, Refused, Say, Script, Side

_HIDDEN = frozenset({"STARTTLS", "AUTHINFO", "SASL", "COMPRESS"})
_GREETINGS = (200, 201)
"""Posting is allowed, or not.  A client may believe either until it has TLS and tries."""


class Nntp(Protocol):
    """NNTP, for readers and for news between servers."""

    name: ClassVar[str] = "nntp"
    asks_backend: ClassVar[bool] = True

    def client(self, names: Names) -> Script:
        """Greeting, STARTTLS."""
        code, texts = yield from reply(Side.CRYPT)
        if code not in _GREETINGS:
            raise Refused(Side.CRYPT, f"connecting was answered with {code} {quoted(texts[0])}")
        yield Say(Side.CRYPT, b"STARTTLS\r\n")
        yield from expect(Side.CRYPT, 382, "STARTTLS")
        return encoded(f"{code} {names.domain}")

    def server(self, names: Names) -> Script:
        """Let the backend greet, tell its capabilities, and wait for STARTTLS."""
        code, greeting = yield from reply(Side.PLAIN)
        if code not in _GREETINGS:
            yield Say(Side.CRYPT, encoded(f"{code} {greeting[0]}"))
            raise Refused(Side.PLAIN, f"connecting was answered with {code} {quoted(greeting[0])}")
        yield Say(Side.PLAIN, b"CAPABILITIES\r\n")
        answered, _ = yield from reply(Side.PLAIN)
        found = (yield from until_dot(Side.PLAIN)) if answered == 101 else ["VERSION 2"]
        shown = [text for text in found if first_word(text) not in _HIDDEN]
        yield Say(Side.CRYPT, encoded(f"{code} {greeting[0]}"))
        for _ in range(COMMANDS):
            text = yield from line(Side.CRYPT)
            verb = first_word(text)
            if verb == "STARTTLS" and len(text.split()) == 1:
                yield Say(Side.CRYPT, b"382 Begin TLS negotiation now\r\n")
                return b""
            if verb == "CAPABILITIES":
                listed = ["101 Capabilities:", *shown, "STARTTLS", "."]
                yield Say(Side.CRYPT, b"".join(encoded(one) for one in listed))
            elif verb == "QUIT":
                yield Say(Side.CRYPT, b"205 Bye\r\n")
                raise Refused(Side.CRYPT, "the client left without TLS")
            else:
                yield Say(Side.CRYPT, b"483 Give the command STARTTLS first\r\n")
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")
