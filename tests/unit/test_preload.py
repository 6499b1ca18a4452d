"""What a worker would import late, it has."""

import subprocess
import sys

CODE = """
import sys
from tlspool_worker import preload
preload.everything()
late = []
sys.addaudithook(lambda event, words: late.append(words[0]) if event == "import" else None)
import cryptography.hazmat.backends, cryptography.x509.ocsp, cryptography.hazmat.primitives.serialization.ssh
import encodings.utf_16_be, encodings.punycode, traceback, linecache
b"\\0a".decode("utf-16-be"); "b\\u00fccher".encode("idna"); b"\\xe4".decode("latin-1")
print(late)
"""


def test_nothing_is_left():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
