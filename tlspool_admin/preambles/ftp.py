"""FTP: AUTH TLS of RFC 4217, FEAT of RFC 2389.

Only the control connection is protected, which carries the password.  Data connections are made between the two ends
without us, and are plaintext.
"""

from __future__ import annotations

from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, expect, line, quoted, reply
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, Refused, Say, Script, Side

_HIDDEN = frozenset({"AUTH", "PBSZ", "PROT", "CCC"})


class Ftp(Protocol):
    """FTP, control connection."""

    name: ClassVar[str] = "ftp"
    asks_backend: ClassVar[bool] = True

    def client(self, names: Names) -> Script:
        """Greeting, AUTH TLS."""
        yield from expect(Side.CRYPT, 220, "connecting")
        yield Say(Side.CRYPT, b"AUTH TLS\r\n")
        yield from expect(Side.CRYPT, 234, "AUTH TLS")
        return encoded(f"220 {names.domain}")

    def server(self, names: Names) -> Script:
        """Let the backend greet, tell its features, and wait for AUTH TLS."""
        code, greeting = yield from reply(Side.PLAIN)
        last = len(greeting) - 1
        shown = [f"{code}{' ' if at == last else '-'}{text}" for at, text in enumerate(greeting)]
        if code != 220:
            yield Say(Side.CRYPT, b"".join(encoded(text) for text in shown))
            raise Refused(Side.PLAIN, f"connecting was answered with {code} {quoted(greeting[0])}")
        yield Say(Side.PLAIN, b"FEAT\r\n")
        code, texts = yield from reply(Side.PLAIN)
        words = [text.strip() for text in texts[1:-1]] if code == 211 else []
        features = [f" {word}" for word in words if word.split(" ")[0].upper() not in _HIDDEN]
        yield Say(Side.CRYPT, b"".join(encoded(text) for text in shown))
        for _ in range(COMMANDS):
            verb = " ".join((yield from line(Side.CRYPT)).upper().split())
            match verb:
                case "AUTH TLS" | "AUTH TLS-C":
                    yield Say(Side.CRYPT, b"234 Begin TLS\r\n")
                    return b""
                case "FEAT":
                    listed = ["211-Features:", *features, " AUTH TLS", "211 End"]
                    yield Say(Side.CRYPT, b"".join(encoded(text) for text in listed))
                case "NOOP":
                    yield Say(Side.CRYPT, b"200 Ok\r\n")
                case "QUIT":
                    yield Say(Side.CRYPT, b"221 Bye\r\n")
                    raise Refused(Side.CRYPT, "the client left without TLS")
                case _ if verb.startswith("AUTH "):
                    yield Say(Side.CRYPT, b"504 Only AUTH TLS\r\n")
                case _:
                    yield Say(Side.CRYPT, b"530 Give the command AUTH TLS first\r\n")
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")
