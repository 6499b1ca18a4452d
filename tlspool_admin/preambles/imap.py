"""IMAP: STARTTLS of RFC 9051 section 6.2.1.

A server that greets with PREAUTH leaves no way to TLS: whoever sends such a greeting in a server's place would have
the whole session in plaintext.  It is refused.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, first_word, line, quoted
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, LINES, Refused, Say, Script, Side, Step

_COMMAND = re.compile(r"([!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|~]{1,64}) ([A-Za-z]{1,32})(?: (.*))?")
"""Tag, command, rest (RFC 9051 section 9; a tag is any astring character but ``+``)."""

_LITERAL = re.compile(r"\{\d+\+\}$")
"""A literal that follows without being asked for (RFC 7888): what comes next is no command."""

_HIDDEN = frozenset({"STARTTLS", "LOGINDISABLED", "SASL-IR"})
"""And AUTH=...: ours take the place of the backend's, and nobody logs in before TLS."""


class Imap(Protocol):
    """IMAP4rev1 and rev2."""

    name: ClassVar[str] = "imap"
    asks_backend: ClassVar[bool] = True

    def client(self, names: Names) -> Script:
        """Greeting, STARTTLS."""
        yield from _greeting(Side.CRYPT)
        yield Say(Side.CRYPT, b"a1 STARTTLS\r\n")
        yield from _completed(Side.CRYPT, "a1", "STARTTLS")
        return encoded(f"* OK {names.domain}")

    def server(self, names: Names) -> Script:
        """Tell the backend's capabilities, and wait for STARTTLS."""
        yield from _greeting(Side.PLAIN)
        yield Say(Side.PLAIN, b"a1 CAPABILITY\r\n")
        untagged = yield from _completed(Side.PLAIN, "a1", "CAPABILITY")
        found = [text.split()[2:] for text in untagged if text.upper().startswith("* CAPABILITY ")]
        words = [word for word in (found[-1] if found else ["IMAP4rev1"]) if not _is_hidden(word)]
        shown = " ".join(["CAPABILITY", *words, "STARTTLS", "LOGINDISABLED"])
        yield Say(Side.CRYPT, encoded(f"* OK [{shown}] {names.domain}"))
        for _ in range(COMMANDS):
            text = yield from line(Side.CRYPT)
            if _LITERAL.search(text):
                yield Say(Side.CRYPT, b"* BYE No literals before STARTTLS\r\n")
                raise Refused(Side.CRYPT, "the client sent a literal in plaintext")
            command = _COMMAND.fullmatch(text)
            if command is None:
                yield Say(Side.CRYPT, b"* BAD No command of IMAP\r\n")
                continue
            tag, verb = command[1], command[2].upper()
            if verb == "STARTTLS" and command[3] is None:
                yield Say(Side.CRYPT, encoded(f"{tag} OK Begin TLS negotiation now"))
                return b""
            yield Say(Side.CRYPT, _refusal(tag, verb, shown))
            if verb == "LOGOUT":
                raise Refused(Side.CRYPT, "the client left without TLS")
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")


def _greeting(side: Side) -> Generator[Step, bytes, None]:
    text = yield from line(side)
    words = text.upper().split(maxsplit=2)
    if words[:2] == ["*", "PREAUTH"]:
        raise Refused(side, "the server greets with PREAUTH, which leaves no way to TLS")
    if words[:2] != ["*", "OK"]:
        raise Refused(side, f"connecting was answered with {quoted(text)}")


def _completed(side: Side, tag: str, what: str) -> Generator[Step, bytes, list[str]]:
    """Hear the answer to a command, and return the untagged lines before it."""
    untagged: list[str] = []
    while len(untagged) <= LINES:
        text = yield from line(side)
        if text.startswith("* "):
            untagged.append(text)
            continue
        if text.split(" ", 1)[0] != tag or first_word(text[len(tag) :]) != "OK":
            raise Refused(side, f"{what} was answered with {quoted(text)}")
        return untagged
    raise Refused(side, f"an answer with more than {LINES} lines")


def _is_hidden(word: str) -> bool:
    return word.upper() in _HIDDEN or word.upper().startswith("AUTH=")


def _refusal(tag: str, verb: str, shown: str) -> bytes:
    match verb:
        case "CAPABILITY":
            return encoded(f"* {shown}") + encoded(f"{tag} OK Done")
        case "NOOP":
            return encoded(f"{tag} OK Done")
        case "LOGOUT":
            return b"* BYE\r\n" + encoded(f"{tag} OK Bye")
        case "LOGIN" | "AUTHENTICATE":
            return encoded(f"{tag} NO [PRIVACYREQUIRED] Give the command STARTTLS first")
    return encoded(f"{tag} BAD Give the command STARTTLS first")
