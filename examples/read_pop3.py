"""poplib over the pool: examples/read_pop3.py localhost 110 starttls|tls USER PASSWORD."""

import sys

from libstub.adapters.pop3 import POP3, POP3_SSL

host, port, how, user, password = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]

if how == "tls":
    pop = POP3_SSL(host, port)
else:
    pop = POP3(host, port)
    pop.stls()

pop.user(user)
pop.pass_(password)
print(f"{pop.tls.remoteid}, {pop.tls.version}")
count, _ = pop.stat()
for number in range(1, count + 1):
    for line in pop.top(number, 0)[1]:
        if line.lower().startswith(b"subject:"):
            print(line.decode())
pop.quit()
