"""All that precedes TLS on one connection, put together."""

from __future__ import annotations

from dataclasses import dataclass

from tlspool_admin.preambles import proxyheader
from tlspool_admin.preambles.protocol import Names, Protocol
from tlspool_admin.preambles.proxyheader import Origin, Proved
from tlspool_admin.preambles.script import Dialogue, Say, Script, Side
from tlspool_admin.preambles.via import WAYS, Target

_SERVER_NAMES = {Side.CRYPT: "the client", Side.PLAIN: "the backend"}
_CLIENT_NAMES = {Side.CRYPT: "the server", Side.PLAIN: "the application"}


@dataclass(slots=True)
class Meeting:
    """What is known of one connection; ``origin`` is where it comes from, as far as anybody told."""

    origin: Origin | None = None
    nonce: str = "0"


@dataclass(frozen=True, slots=True)
class Preamble:
    """What precedes TLS on every connection.

    Attributes:
        is_server: CRYPT is the side that was accepted.
        domain: of the TLS server.
        protocol: how TLS is agreed on; None: it begins at once.
        via: scheme of a proxy, and what it is asked; for clients.
        accept_proxy: what is accepted begins with a PROXY header.
        send_proxy: 'v1' or 'v2': the other side is sent one.
    """

    is_server: bool
    domain: str = ""
    protocol: Protocol | None = None
    via: tuple[str, Target] | None = None
    accept_proxy: bool = False
    send_proxy: str = ""

    @property
    def asks_backend(self) -> bool:
        """Whether both sides must be connected before it begins."""
        return not self.is_server or (self.protocol is not None and self.protocol.asks_backend)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say or to hear."""
        early = self.send_proxy and self.asks_backend
        return not (self.protocol or self.via or self.accept_proxy or early)

    def dialogue(self, meeting: Meeting) -> Dialogue:
        """Return a conversation that is about to start."""
        return Dialogue(self._script(meeting), _SERVER_NAMES if self.is_server else _CLIENT_NAMES)

    def _script(self, meeting: Meeting) -> Script:
        accepted, outbound = (Side.CRYPT, Side.PLAIN) if self.is_server else (Side.PLAIN, Side.CRYPT)
        if self.accept_proxy:
            meeting.origin = yield from proxyheader.read(accepted)
        if self.via is not None:
            scheme, target = self.via
            yield from WAYS[scheme](target)
        if self.send_proxy and self.asks_backend:
            yield Say(outbound, proxyheader.write(self.send_proxy, meeting.origin))
        if self.protocol is None:
            return b""
        names = Names(self.domain, meeting.nonce)
        return (yield from self.protocol.server(names) if self.is_server else self.protocol.client(names))

    def opening(self, meeting: Meeting, remoteid: str, rest: bytes) -> bytes:
        """Return what PLAIN is told first, now that the remote is known; ``rest`` is what the conversation left."""
        if self.send_proxy and not self.asks_backend:
            return proxyheader.write(self.send_proxy, meeting.origin, Proved(remoteid)) + rest
        return rest
