"""Write the corpus of fuzz_provider.c anew, after a change of formats: python -m tests.fuzz.corpus.make_provider."""

import base64
from pathlib import Path

from tests.fixtures import certs
from tlspool_common.codec import encode
from tlspool_common.messages import KeyKind, Signed
from tlspool_worker import keyref

HERE = Path(__file__).with_name("provider")
KINDS = {"rsa": KeyKind.RSA, "p256": KeyKind.EC_P256, "p384": KeyKind.EC_P384, "ed25519": KeyKind.ED25519}


def entries():
    """Return (name, content) of each file."""
    for name, kind in KINDS.items():
        pem = keyref.encode(kind, certs.spki(certs.key(name)), 5, 10_000, b"grant of " + name.encode())
        yield f"der-{name}", b"D" + base64.b64decode(b"".join(pem.splitlines()[1:-1]))
        yield f"pem-{name}", b"P" + pem
    yield "pem-behind-other-text", b"Pcertificate\n" + pem + b"more\n"
    yield "der-other-version", b"D\x30\x03\x04\x01\x00"
    yield "der-empty", b"D"
    yield "signed", b"S" + encode(0x31, 0, Signed(code=0, signature=bytes(range(70))))
    yield "signed-refused", b"S" + encode(0x31, 0, Signed(code=512, signature=b""))
    yield "signed-both", b"S" + encode(0x31, 0, Signed(code=512, signature=b"x"))
    yield "signed-cut", b"S" + encode(0x31, 0, Signed(code=0, signature=b"x" * 64))[:-1]


if __name__ == "__main__":
    for name, content in entries():
        (HERE / name).write_bytes(content)
