"""uvicorn with HTTPS of the pool: examples/uvicorn_https.py 8443 localhost.

uvicorn runs in asyncio's own loop: uvloop accepts connections by itself, past TLS, so it refuses the listener.
"""

import sys
from typing import Any

import uvicorn

import libstub
from libstub.adapters.scheme import https_asgi

port, localid = int(sys.argv[1]), sys.argv[2]


async def page(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Tell who asks, and how."""
    body = f"{scope['scheme']} for {scope['client'][0]}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


listener = libstub.listen(("127.0.0.1", port), localid, remote_auth="ignore")
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(https_asgi(page), lifespan="off", loop="asyncio", log_level="warning")
uvicorn.Server(config).run(sockets=[listener])
