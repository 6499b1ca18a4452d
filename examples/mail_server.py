"""aiosmtpd with STARTTLS through the pool: examples/mail_server.py 2525 localhost.

Prints what is delivered.
"""

import asyncio
import sys
from functools import partial

import aiosmtpd.smtp

from libstub.adapters.smtpd import StarttlsMixIn

port, localid = int(sys.argv[1]), sys.argv[2]


class Server(StarttlsMixIn, aiosmtpd.smtp.SMTP):
    """aiosmtpd's server, whose STARTTLS goes to the pool."""

    localid = localid


class Printer:
    """A handler of aiosmtpd."""

    async def handle_DATA(  # noqa: N802 - aiosmtpd finds hooks by name
        self, server: Server, session: aiosmtpd.smtp.Session, envelope: aiosmtpd.smtp.Envelope
    ) -> str:
        """Print a message, and how it came."""
        tls = session.ssl["tlspool"]
        print(f"from {envelope.mail_from} to {envelope.rcpt_tos}, {tls.version} {tls.cipher}", flush=True)
        print(envelope.content.decode(errors="replace"), flush=True)
        return "250 taken"


async def main() -> None:
    """Serve until the end."""
    factory = partial(Server, Printer(), require_starttls=True, hostname=localid)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
