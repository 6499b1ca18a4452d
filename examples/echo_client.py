"""A client of echo_server.py: says something over TLS of the pool, and prints what it knows about the server.

examples/echo_client.py --connect 127.0.0.1:4433 --remoteid testsrv@tlspool.arpa2.lab
"""

from __future__ import annotations

import argparse
import socket
import sys

import libstub


def main() -> int:
    """Run the client."""
    parser = argparse.ArgumentParser(description="Have something echoed, over TLS of the pool.")
    parser.add_argument("--connect", metavar="H:P", required=True)
    parser.add_argument("--remoteid", metavar="ID", required=True, help="who the server must be")
    parser.add_argument("--localid", metavar="ID", default="", help="who we are; the pool chooses if not given")
    parser.add_argument("--alpn", metavar="NAME", action="append", default=[], help="protocol to offer; repeatable")
    parser.add_argument("--text", default="hello over TLS")
    args = parser.parse_args()
    host, _, port = args.connect.rpartition(":")
    try:
        sock = socket.create_connection((host, int(port)), timeout=30)
        with libstub.starttls_client(sock, args.remoteid, localid=args.localid, alpn=args.alpn) as tls:
            tls.sock.sendall(args.text.encode())
            tls.sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: tls.sock.recv(65536), b""))
    except (libstub.PoolError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"we are {tls.localid or 'anybody'}, the server is {tls.remoteid}")
    print(f"{tls.version} {tls.group} {tls.cipher}, ALPN {tls.alpn or 'none'}")
    print(f"it said: {answer.decode()}")
    return 0 if answer == args.text.encode() else 1


if __name__ == "__main__":
    raise SystemExit(main())
