"""A server in three lines, for one client: examples/three_lines_server.py localhost 4433."""

import socket
import sys

import libstub

identity, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", port))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)

connection, address = listener.accept()
with libstub.starttls_server(connection, identity, remote_auth="request") as tls:
    tls.sock.sendall(f"hello {tls.remoteid or 'stranger'} at {address[0]}\n".encode())
listener.close()
