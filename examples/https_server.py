"""http.server over the pool: examples/https_server.py 4433 localhost."""

import http.server
import sys

from libstub.adapters.servers import HTTPSServer


class Page(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell who asks, and how."""
        tls = self.request.tls
        body = f"{self.path} for {tls.remoteid or 'somebody'} at {self.client_address[0]}, {tls.version}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


with HTTPSServer(("127.0.0.1", int(sys.argv[1])), Page, localid=sys.argv[2]) as server:
    print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
