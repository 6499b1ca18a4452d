"""STARTTLS of the pool for aiosmtpd: a mix-in for its SMTP class.

    class PoolSMTP(StarttlsMixIn, aiosmtpd.smtp.SMTP):
        localid = "mail.example.com"

aiosmtpd is not imported here.  Its extension points are internal: this goes with versions 1.4.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from libstub.aio.pool import AsyncPoolOrPath
from libstub.aio.transport import start_tls
from libstub.errors import PoolError
from libstub.options import ServerOptions

_log = logging.getLogger("libstub")


class StarttlsMixIn:
    """Mix this in before aiosmtpd's SMTP.  In a session, ``session.ssl["tlspool"]`` is the TlsSession.

    Options of aiosmtpd that depend on TLS (``require_starttls``, ``auth_require_tls``, a handler's
    ``handle_STARTTLS``) work as they do with its own.

    Attributes:
        localid: who we are; the pool must have a certificate for it.
        tls_options: the other options of ``libstub.starttls_server``.
        tls_pool: an AsyncPool, or the path of one.
    """

    localid: str
    tls_options: ServerOptions = ServerOptions(remote_auth="ignore", service="smtp")
    tls_pool: AsyncPoolOrPath = None

    transport: Any
    session: Any
    push: Any
    _reader: Any

    def __init__(self, *args: Any, require_starttls: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        # Both make aiosmtpd offer STARTTLS; to be true is all that the context has to be.
        self.tls_context = True
        self.require_starttls = require_starttls

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802 - aiosmtpd finds commands by name
        """Answer STARTTLS, and go on in TLS."""
        if arg:
            await self.push("501 Syntax: STARTTLS")
            return
        if self.session.ssl is not None:
            await self.push("503 TLS is running already")
            return
        plain = self.transport
        plain.pause_reading()
        if self._reader._buffer:
            # Commands that came in plaintext, to be taken for ones that came over TLS (CVE-2011-0411).
            _log.warning("no session with %s: commands came glued to STARTTLS", self.session.peer)
            await self.push("501 Nothing may follow STARTTLS")
            plain.close()
            return
        try:
            secured = await start_tls(
                plain,
                self,  # type: ignore[arg-type]  # with aiosmtpd's SMTP, it is a protocol
                server=True,
                answer=b"220 Ready to start TLS\r\n",
                localid=self.localid,
                pool=self.tls_pool,
                **self.tls_options,
            )
        except PoolError as error:
            _log.info("no session with %s: %s", self.session.peer, str(error))
            return  # connection_lost has been called, and has ended the task that we are in
        # From here on as aiosmtpd does it: connection_made resets what came before TLS (RFC 3207 section 4.2).
        self._original_transport = plain
        self._tls_protocol = SimpleNamespace(_extra={"tlspool": secured.get_extra_info("tlspool")})
        self.connection_made(secured)

    connection_made: Any
