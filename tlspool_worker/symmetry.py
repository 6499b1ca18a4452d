"""The peer role: two ends that may each be client or server find out which they are.

A peer listens for a moment.  If a ClientHello comes, it is the server; if nothing comes, it sends its own and is the
client, unless the two cross: then both have said ClientHello, and both know both.  The tie is broken by what is in
them anyway:

    The random of a ClientHello (RFC 8446 section 4.1.2) is 32 octets.  The greater one, compared octet by octet, is
    the client's.  The other end throws its own ClientHello away, and answers this one as a server; the client throws
    the ClientHello away that came, and waits for the ServerHello behind it.

    Equal ones are no tie but a mirror: somebody sends our own bytes back.  That is refused.

             listening ---a ClientHello---> server
                 | time is up
               spoken ---anything but a ClientHello---> client      an ordinary server, or a fault: OpenSSL will say
                 |
                 +---a ClientHello---> client, or server

So a peer meets ordinary clients, which speak at once, and ordinary servers, which do not speak first, as what they
are.  No octet on the wire is new, and the ClientHello that is thrown away is part of no transcript.  Who becomes
what decides nothing about who is believed: a certificate is asked of either end, by either role.

Not for other transports: with datagrams a thrown-away ClientHello would be sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlspool_common.errors import Code
from tlspool_worker.client_hello import ClientHello, HelloReader, HelloRefused

_ILLEGAL_PARAMETER = 47

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_HEAD_B = 6
"""A record's header and the first octet of its fragment: the type of a handshake message."""


@dataclass(frozen=True, slots=True)
class IsClient:
    """We are the client; ``data`` came behind what was thrown away, and is for OpenSSL."""

    data: bytes


@dataclass(frozen=True, slots=True)
class IsServer:
    """We are the server of this ClientHello; ``data`` are its bytes, for OpenSSL."""

    hello: ClientHello
    data: bytes


Verdict = IsClient | IsServer


class Symmetry:
    """One session that has not found its role yet."""

    __slots__ = ("_mine", "_reader")

    def __init__(self) -> None:
        self._reader = HelloReader()
        self._mine: bytes | None = None

    @property
    def has_heard(self) -> bool:
        """Whether the remote has begun to speak, so that we do not any more."""
        return bool(self._reader.raw)

    def spoke(self, output: bytes) -> None:
        """We have sent our ClientHello, which these bytes are."""
        reader = HelloReader()
        hello = reader.feed_untrusted(output)
        if hello is None:
            raise AssertionError("what OpenSSL sends first is not a whole ClientHello")
        self._mine = hello.random

    def heard_untrusted(self, data: bytes) -> Verdict | None:
        """The remote has sent bytes; return the verdict as soon as there is one.

        Raises:
            HelloRefused: neither a ClientHello nor, if we have spoken, the answer to one; or a mirror.
        """
        reader = self._reader
        if self._mine is not None:
            start = bytes(reader.raw[:_HEAD_B]) + data[:_HEAD_B]
            if len(start) < _HEAD_B and start[:1] in (b"", bytes([_HANDSHAKE])):
                reader.raw += data
                return None
            if start[0] != _HANDSHAKE or start[_HEAD_B - 1] != _CLIENT_HELLO:
                return IsClient(bytes(reader.raw) + data)
        hello = reader.feed_untrusted(data)
        if hello is None:
            return None
        if self._mine is None or hello.random > self._mine:
            return IsServer(hello, bytes(reader.raw))
        if hello.random == self._mine:
            raise HelloRefused(Code.REMOTE_PROTOCOL, _ILLEGAL_PARAMETER, "the remote sends our own ClientHello back")
        return IsClient(reader.rest)
