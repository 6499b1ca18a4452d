"""Run in a world, by an ordinary user, with Debian's Python: sessions through the pool that never stop talking.

    echo_sessions.py CA.pem COUNT

A server that gives its connections to the pool, and COUNT clients that are Python's ssl module.  Says ``up`` when all
sessions stand.  For each line on standard input it sends something through every session, once more, and says
``echoed N of COUNT``.  Ends at the end of its input.
"""

import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import libstub

sys.setswitchinterval(0.001)
threading.stack_size(256 * 1024)


def serve(listener):
    """Echo each connection in a thread."""

    def echo(sock):
        try:
            session = libstub.starttls_server(sock, localid="localhost", remote_auth="ignore")
            kept.append(session)
            with session.sock as plain:
                while data := plain.recv(65536):
                    plain.sendall(data)
        except (OSError, libstub.PoolError) as error:
            print("server:", error, flush=True)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=echo, args=(sock,), daemon=True).start()


def connect(port, context):
    """Return a client's end of a session."""
    sock = socket.create_connection(("127.0.0.1", port), 60)
    return context.wrap_socket(sock, server_hostname="localhost")


def echoes(sock, number):
    """Whether a session still carries bytes both ways."""
    text = f"{number} {'x' * 1000}".encode()
    try:
        sock.sendall(text)
        got = b""
        while len(got) < len(text):
            if not (data := sock.recv(65536)):
                return False
            got += data
    except OSError as error:
        print("client:", error, flush=True)
        return False
    return got == text


kept = []
context = ssl.create_default_context(cafile=sys.argv[1])
count = int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
threading.Thread(target=serve, args=(listener,), daemon=True).start()
port = listener.getsockname()[1]
with ThreadPoolExecutor(16) as pool:
    clients = list(pool.map(lambda _: connect(port, context), range(count)))
    assert all(pool.map(echoes, clients, range(count)))
    print("up", flush=True)
    for _line in sys.stdin:
        good = sum(pool.map(echoes, clients, range(count)))
        print(f"echoed {good} of {count}", flush=True)
