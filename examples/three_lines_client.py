"""A client in three lines: examples/three_lines_client.py localhost 443."""

import socket
import sys

import libstub

host, port = sys.argv[1], int(sys.argv[2])

sock = socket.create_connection((host, port))
with libstub.starttls_client(sock, host) as tls:
    tls.sock.sendall(b"GET / HTTP/1.0\r\nHost: %s\r\n\r\n" % host.encode())
    print(tls.remoteid, tls.version, tls.group, tls.sock.recv(4096))
