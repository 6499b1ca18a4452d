"""Remotes for the fuzzer of the whole pool: TLS without threads, pumped when it suits; good ones and others."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path

KINDS = ("client", "client", "client", "anonymous", "server", "server", "silent", "garbage", "gone", "plain http")


class Remote:
    """One end of a connection, whose other end goes to the pool."""

    def __init__(self, kind: str, certificate: Path, authority: Path, sni: str = "localhost") -> None:
        self.kind = kind
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.done = False
        self.got = b""
        self.alive = True
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if kind in ("client", "anonymous", "server"):
            server = kind == "server"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if kind != "anonymous":
                context.load_cert_chain(certificate)
            if server:
                context.load_verify_locations(authority)
                context.verify_mode = ssl.CERT_OPTIONAL
            else:
                context.post_handshake_auth = True
            name = None if server else sni
            self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        elif kind == "garbage":
            self._write(os.urandom(300))
        elif kind == "plain http":
            self._write(b"GET / HTTP/1.0\r\n\r\n")
        elif kind == "gone":
            self.close()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.ours.send(data)

    def pump(self) -> None:
        """Do what can be done without waiting."""
        if not self.alive or self._tls is None:
            return
        try:
            data = self.ours.recv(1 << 16)
            self._in.write(data) if data else self._in.write_eof()
        except BlockingIOError:
            pass
        except OSError:
            self._in.write_eof()
        try:
            if not self.done:
                self._tls.do_handshake()
                self.done = True
            self.got += self._tls.read(1 << 16)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError):
            self._flush()
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        while self._out.pending:
            self._write(self._out.read())

    def say(self, data: bytes) -> None:
        """Send over TLS, if that has come so far."""
        if self.alive and self.done and self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.write(data)
            self._flush()

    def notify(self) -> None:
        """Send close_notify."""
        if self.alive and self.done and self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()

    def close(self) -> None:
        """Break off."""
        self.alive = False
        self.ours.close()

    def close_all(self) -> None:
        """Break off, and close the other end if it was not passed."""
        self.close()
        self.theirs.close()
