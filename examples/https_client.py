"""http.client and urllib over the pool: examples/https_client.py localhost 4433."""

import sys

from libstub.adapters.https import HTTPSConnection, build_opener

host, port = sys.argv[1], int(sys.argv[2])

connection = HTTPSConnection(host, port)
for path in ("/first", "/second"):  # over one connection
    connection.request("GET", path)
    print(connection.getresponse().read().decode().strip())
connection.close()

with build_opener().open(f"https://{host}:{port}/urllib") as response:
    print(response.status, response.read().decode().strip())
