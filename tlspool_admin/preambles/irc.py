"""IRC: STARTTLS as ``tls`` of IRCv3 describes it, answered with the numerics 670 and 691."""

from __future__ import annotations

import re
from typing import ClassVar

from tlspool_admin.preambles.lines import encoded, line, quoted
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import COMMANDS, LINES, Refused, Say, Script, Side

_MESSAGE = re.compile(r"(?::[^ ]+ +)?([A-Za-z]+|[0-9]{3})(?: +(.*))?")
"""Prefix, command, parameters (RFC 2812 section 2.3.1)."""

_BEFORE = frozenset({"NOTICE", "020", "CAP"})
"""What servers say before they are asked anything."""


class Irc(Protocol):
    """IRC, for clients."""

    name: ClassVar[str] = "irc"

    def client(self, names: Names) -> Script:
        """STARTTLS; the server greets after it registered the client, so over TLS."""
        yield Say(Side.CRYPT, b"STARTTLS\r\n")
        for _ in range(LINES):
            text = yield from line(Side.CRYPT)
            message = _MESSAGE.fullmatch(text)
            if message is not None and message[1] == "670":
                return b""
            if message is None or message[1].upper() not in _BEFORE:
                raise Refused(Side.CRYPT, f"STARTTLS was answered with {quoted(text)}")
        raise Refused(Side.CRYPT, f"more than {LINES} lines in place of an answer to STARTTLS")

    def server(self, names: Names) -> Script:
        """Offer ``tls``, and wait for STARTTLS."""
        for _ in range(COMMANDS):
            text = yield from line(Side.CRYPT)
            message = _MESSAGE.fullmatch(text)
            verb = message[1].upper() if message else ""
            rest = ((message[2] or "") if message else "").upper().split()
            if verb == "STARTTLS":
                yield Say(
                    Side.CRYPT, encoded(f":{names.domain} 670 * :STARTTLS successful, proceed with TLS handshake")
                )
                return b""
            if verb == "QUIT":
                yield Say(Side.CRYPT, b"ERROR :Bye\r\n")
                raise Refused(Side.CRYPT, "the client left without TLS")
            if verb == "CAP" and rest[:1] == ["LS"]:
                yield Say(Side.CRYPT, encoded(f":{names.domain} CAP * LS :tls"))
            elif verb == "CAP" and rest in (["REQ", "TLS"], ["REQ", ":TLS"]):
                yield Say(Side.CRYPT, encoded(f":{names.domain} CAP * ACK :tls"))
            elif verb == "CAP" and rest[:1] == ["REQ"]:
                yield Say(Side.CRYPT, encoded(f":{names.domain} CAP * NAK :{' '.join(rest[1:]).lstrip(':').lower()}"))
            else:
                yield Say(Side.CRYPT, encoded(f":{names.domain} 451 * :Give the command STARTTLS first"))
        raise Refused(Side.CRYPT, f"the client gave {COMMANDS} commands without turning to TLS")
