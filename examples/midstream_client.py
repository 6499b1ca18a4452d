"""STARTTLS in mid-stream, the client's side, in asyncio: examples/midstream_client.py 4433 localhost."""

import asyncio
import sys

import libstub

port, remoteid = int(sys.argv[1]), sys.argv[2]


async def main() -> None:
    """Speak plaintext, then TLS, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    print((await reader.readline()).decode().strip())
    writer.write(b"STARTTLS\r\n")
    print((await reader.readline()).decode().strip())

    reader, writer = await libstub.aio.upgrade(reader, writer, remoteid=remoteid)
    writer.write(b"hello over TLS\n")
    print((await reader.readline()).decode().strip())
    writer.close()
    await writer.wait_closed()


asyncio.run(main())
