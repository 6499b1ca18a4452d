"""SMTP and LMTP: RFC 3207.

As server we greet with the backend's greeting, and offer the extensions it has, with STARTTLS and without those that
make no sense yet.  The backend is asked with a name of ours: it hears of the client only over TLS.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, expect, first_word, line, quoted, reply
from tlspool_admin.preambles.protocol import OWN_NAME, Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, Refused, Say, Script, Side, Step

_HIDDEN = frozenset({"STARTTLS", "AUTH", "XCLIENT", "XFORWARD"})
"""Ours takes the place of the backend's; passwords do not go in plaintext (RFC 4954 section 4); the others are for
those who speak with the backend directly, which the remote does not."""


class Smtp(Protocol):
    """SMTP, for mail exchange and submission alike."""

    name: ClassVar[str] = "smtp"
    asks_backend: ClassVar[bool] = True
    hello: ClassVar[str] = "EHLO"
    titled: ClassVar[str] = "ESMTP"

    def client(self, names: Names) -> Script:
        """Greeting, EHLO, STARTTLS."""
        crypt = Side.CRYPT
        yield from expect(crypt, 220, "connecting")
        yield Say(crypt, encoded(f"{self.hello} {OWN_NAME}"))
        texts = yield from expect(crypt, 250, self.hello)
        if "STARTTLS" not in (first_word(text) for text in texts[1:]):
            raise Refused(crypt, "the server does not offer STARTTLS, or somebody on the way took the offer out")
        yield Say(crypt, b"STARTTLS\r\n")
        yield from expect(crypt, 220, "STARTTLS")
        return encoded(f"220 {names.domain} {self.titled}")

    def server(self, names: Names) -> Script:
        """Let the backend greet, tell of its extensions, and wait for STARTTLS."""
        greeting, extensions = yield from self._backend()
        yield Say(Side.CRYPT, _answer(220, greeting))
        domain = greeting[0].split(" ", 1)[0] or names.domain
        for _ in range(COMMANDS):
            text = yield from line(Side.CRYPT)
            verb = first_word(text)
            has_argument = len(text.split()) > 1
            if verb == "STARTTLS" and not has_argument:
                yield Say(Side.CRYPT, b"220 2.0.0 Ready to start TLS\r\n")
                return b""
            yield Say(Side.CRYPT, self._refusal(verb, has_argument, domain, extensions))
            if verb == "QUIT":
                raise Refused(Side.CRYPT, "the client left without TLS")
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")

    def _backend(self) -> Generator[Step, bytes, tuple[list[str], list[str]]]:
        code, greeting = yield from reply(Side.PLAIN)
        if code != 220:
            yield Say(Side.CRYPT, _answer(code, greeting))
            raise Refused(Side.PLAIN, f"connecting was answered with {code} {quoted(greeting[0])}")
        yield Say(Side.PLAIN, encoded(f"{self.hello} {OWN_NAME}"))
        code, texts = yield from reply(Side.PLAIN)
        # A backend that refuses EHLO has no extensions (RFC 5321 section 4.1.4).
        extensions = [text for text in texts[1:] if first_word(text).split("=")[0] not in _HIDDEN]
        return greeting, extensions if code == 250 else []

    def _refusal(self, verb: str, has_argument: bool, domain: str, extensions: list[str]) -> bytes:
        if verb == self.hello or (verb == "HELO" and self.hello == "EHLO"):
            if not has_argument:
                return encoded(f"501 5.5.4 Syntax: {verb} hostname")
            return _answer(250, [domain, *extensions, "STARTTLS"] if verb == self.hello else [domain])
        if verb in ("NOOP", "RSET"):
            return b"250 2.0.0 Ok\r\n"
        if verb == "QUIT":
            return b"221 2.0.0 Bye\r\n"
        if verb == "STARTTLS":
            return b"501 5.5.4 Syntax: STARTTLS\r\n"
        return b"530 5.7.0 Must issue a STARTTLS command first\r\n"


class Lmtp(Smtp):
    """LMTP (RFC 2033): SMTP with another greeting."""

    name: ClassVar[str] = "lmtp"
    hello: ClassVar[str] = "LHLO"
    titled: ClassVar[str] = "LMTP"


def _answer(code: int, texts: list[str]) -> bytes:
    last = len(texts) - 1
    return b"".join(encoded(f"{code}{' ' if at == last else '-'}{text}") for at, text in enumerate(texts))
