"""PostgreSQL: SSLRequest, as its manual describes it in "Message Flow".

0        4        8
+--------+--------+
| length |  code  |
+--------+--------+
"""

from __future__ import annotations

import struct
from typing import ClassVar

from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.script import Need, Refused, Say, Script, Side

_REQUEST = struct.Struct(">II")
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_FATAL = b"SFATAL\0VFATAL\0C28000\0MTLS is required: set sslmode\0\0"
"""Severity, the same untranslated, SQLSTATE invalid_authorization_specification, text."""

_GSS_TRIES = 1
"""libpq asks for GSSAPI once, before it asks for TLS."""


class Postgres(Protocol):
    """PostgreSQL and what speaks like it."""

    name: ClassVar[str] = "postgres"

    def client(self, names: Names) -> Script:
        """SSLRequest."""
        yield Say(Side.CRYPT, _REQUEST.pack(8, _SSL))
        answer = yield Need(Side.CRYPT, 1)
        if answer != b"S":
            raise Refused(Side.CRYPT, "the server has no TLS" if answer == b"N" else "the server is no PostgreSQL")
        return b""

    def server(self, names: Names) -> Script:
        """Wait for SSLRequest."""
        side = Side.CRYPT
        for _ in range(_GSS_TRIES + 1):
            size_b, code = _REQUEST.unpack((yield Need(side, _REQUEST.size)))
            if (size_b, code) == (8, _SSL):
                yield Say(side, b"S")
                return b""
            if (size_b, code) != (8, _GSS):
                break
            yield Say(side, b"N")
        if code == _CANCEL:
            raise Refused(side, "the client asked in plaintext to cancel something")
        if code >> 16 == 3:
            yield Say(side, b"E" + (len(_FATAL) + 4).to_bytes(4, "big") + _FATAL)
            raise Refused(side, "the client began a session without TLS")
        raise Refused(side, "what came is no request of PostgreSQL")
