"""socketserver over the pool: says back in capitals what it gets.  examples/socketserver_upper.py 4433 localhost."""

import socketserver
import sys

from libstub.adapters.servers import TlsPoolMixIn


class Upper(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self) -> None:
        """Answer each line."""
        print("client", self.client_address, self.request.tls.version, flush=True)
        for line in self.rfile:
            self.wfile.write(line.upper())


class Server(TlsPoolMixIn, socketserver.ThreadingTCPServer):
    """A server with TLS, and a thread for each client."""

    localid = sys.argv[2]
    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Upper) as server:
    print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
