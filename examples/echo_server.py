"""A server that echoes what clients say, over TLS of the pool; stops with --once after one client.

examples/echo_server.py --listen 127.0.0.1:4433 --localid testsrv@tlspool.arpa2.lab
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading

import libstub


def serve(sock: socket.socket, args: argparse.Namespace) -> bool:
    """Serve one client; return whether there was a session."""
    try:
        with libstub.starttls_server(sock, args.localid, remote_auth=args.client_auth, alpn=args.alpn) as tls:
            print(f"we are {tls.localid}, the client is {tls.remoteid or 'anybody'}", flush=True)
            print(f"{tls.version} {tls.group} {tls.cipher}, ALPN {tls.alpn or 'none'}", flush=True)
            while data := tls.sock.recv(65536):
                tls.sock.sendall(data)
            tls.sock.shutdown(socket.SHUT_WR)
    except libstub.PoolError as error:
        print(f"no session: {error}", file=sys.stderr)
        return False
    except OSError as error:
        print(f"the client went away: {error}", file=sys.stderr)
    return True


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description="Echo, over TLS of the pool.")
    parser.add_argument("--listen", metavar="H:P", required=True)
    parser.add_argument("--localid", metavar="ID", required=True, help="who we are")
    parser.add_argument("--client-auth", choices=("require", "request", "ignore"), default="require")
    parser.add_argument("--alpn", metavar="NAME", action="append", default=[], help="protocol to accept; repeatable")
    parser.add_argument("--once", action="store_true", help="serve one client and end")
    args = parser.parse_args()
    host, _, port = args.listen.rpartition(":")
    with socket.create_server((host, int(port)), backlog=128) as listener:
        print(f"listening on {host}:{listener.getsockname()[1]}", flush=True)
        while True:
            sock, _ = listener.accept()
            if args.once:
                return 0 if serve(sock, args) else 1
            threading.Thread(target=serve, args=(sock, args), daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main())
