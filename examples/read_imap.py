"""imaplib over the pool: examples/read_imap.py localhost 143 starttls|tls USER PASSWORD."""

import sys

from libstub.adapters.imap import IMAP4, IMAP4_SSL

host, port, how, user, password = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]

if how == "tls":
    imap = IMAP4_SSL(host, port)
else:
    imap = IMAP4(host, port)
    imap.starttls()

with imap:
    imap.login(user, password)
    print(f"{imap.tls.remoteid}, {imap.tls.version}")
    imap.select("INBOX", readonly=True)
    _, (numbers,) = imap.search(None, "ALL")
    for number in numbers.split():
        _, parts = imap.fetch(number, "(BODY[HEADER.FIELDS (SUBJECT)])")
        print(parts[0][1].decode().strip())
