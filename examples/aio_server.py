"""A server in asyncio: examples/aio_server.py 127.0.0.1 4433 testsrv@tlspool.arpa2.lab."""

import asyncio
import sys

import libstub

host, port, localid = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""
    print(
        "client", writer.get_extra_info("tlspool").remoteid or "unknown", writer.get_extra_info("peername"), flush=True
    )
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def main() -> None:
    """Serve until the end."""
    server = await libstub.aio.start_server(echo, host, port, localid=localid, remote_auth="request")
    print(f"listening on {host}:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
