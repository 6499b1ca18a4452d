"""A print service that knows its users by TLS: RADIUS says who may print, and hears what to bill.

    print_server.py --listen 127.0.0.1:6310 --localid print.example.com

A client sends lines; each is a page, and is answered with its number.  The pages are billed to whom the client has
proved to be, when it is gone; if this program dies in the middle, what it has said so far is not lost.
"""

import argparse
import contextlib
import socket
import sys

import libstub


def serve(pool: libstub.Pool, sock: socket.socket, localid: str, job: str) -> None:
    """Print what one client sends."""
    with libstub.starttls_server(sock, localid, service="ipp", pool=pool) as tls:
        try:
            access = pool.authorize(tls, kind="print", instance="colour")
        except libstub.AccessRejected as error:
            tls.sock.sendall(f"no: {error.text}\n".encode())
            return
        print(f"{tls.remoteid} prints, as {' '.join(access.tags) or 'anybody'}", flush=True)
        with pool.account("print", job, identity=tls) as account:
            pages = 0
            for _ in tls.sock.makefile("rb"):
                pages += 1
                account.update(items=pages)
                tls.sock.sendall(f"page {pages}\n".encode())
            account.end(items=pages)
        print(f"{tls.remoteid} has printed {pages} pages: {account.acct_id}", flush=True)


def main() -> None:
    """Serve one client after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:6310")
    parser.add_argument("--localid", required=True)
    parser.add_argument("--once", action="store_true", help="serve one client")
    args = parser.parse_args()
    host, _, port = args.listen.rpartition(":")
    with libstub.Pool() as pool, socket.create_server((host, int(port))) as listener:
        print(f"listening on {host}:{listener.getsockname()[1]}", flush=True)
        number = 0
        while not (args.once and number):
            number += 1
            sock, address = listener.accept()
            try:
                with contextlib.suppress(ConnectionError):
                    serve(pool, sock, args.localid, f"job-{address[0]}-{address[1]}-{number}")
            except libstub.PoolError as error:
                print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
