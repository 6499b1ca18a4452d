"""STARTTLS in mid-stream, the server's side, in asyncio: examples/midstream_server.py 4433 localhost."""

import asyncio
import sys

import libstub

port, localid = int(sys.argv[1]), sys.argv[2]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer in plaintext until the client wants TLS, then tell who it is."""
    writer.write(b"220 hello\r\n")
    while await reader.readline() != b"STARTTLS\r\n":
        writer.write(b"530 say STARTTLS\r\n")
    try:
        # The answer goes out in here, when reading has stopped, so that the client's hello is left to the pool.
        answer = b"220 go ahead\r\n"
        reader, writer = await libstub.aio.upgrade(reader, writer, server=True, localid=localid, answer=answer)
    except libstub.PoolError as error:
        print(f"no session: {error}", flush=True)
        return
    line = await reader.readline()
    writer.write(b"250 " + writer.get_extra_info("tlspool").remoteid.encode() + b" said " + line)
    writer.close()


async def main() -> None:
    """Serve until the end."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
