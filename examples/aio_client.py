"""A client in asyncio: examples/aio_client.py 127.0.0.1 4433 testsrv@tlspool.arpa2.lab."""

import asyncio
import sys

import libstub

host, port, remoteid = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def main() -> None:
    """Have something echoed."""
    reader, writer = await libstub.aio.open_connection(host, port, remoteid)
    writer.write(b"hello over TLS\n")
    print((await reader.readline()).decode().strip())

    tls = writer.get_extra_info("tlspool")
    print(f"{tls.remoteid} at {writer.get_extra_info('peername')[0]}, {tls.version}, {tls.group}")
    writer.close()
    await writer.wait_closed()


asyncio.run(main())
