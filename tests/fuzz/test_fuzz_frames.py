"""Invariant: whatever bytes come over a border, decoding ends in a message of the table or in BadFrame.

And a message that was decoded encodes to the very same bytes: there is one form of each message.
"""

import random

from tlspool_common.codec import BadFrame, decode_untrusted, encode, header_untrusted
from tlspool_common.messages import (
    BY_CODE,
    AskExport,
    HandshakeDone,
    KeyKind,
    RemoteAuth,
    RemoteTold,
    Side,
    StartSession,
    Told,
    UseCredential,
)

SEEDS = (
    encode(
        0x60,
        7,
        StartSession(
            session_id=1,
            side=Side.CLIENT,
            remote_auth=RemoteAuth.REQUIRE,
            trust_generation=3,
            tls_min=0x303,
            tls_max=0x304,
            groups="X25519",
            ciphers_tls12="",
            ciphersuites_tls13="",
            sigalgs="",
            alpn=b"\x02h2",
            sni="tlspool.arpa2.lab",
            remote_name="testsrv@tlspool.arpa2.lab",
            domain_represents_user=True,
        ),
    ),
    encode(0x64, 7, UseCredential(session_id=1, key_kind=KeyKind.RSA, chain=(b"0" * 40, b"1" * 50), grant=b"g" * 60)),
    encode(
        0x68,
        7,
        HandshakeDone(
            session_id=1,
            tls_version=0x304,
            cipher="TLS_AES_256_GCM_SHA384",
            group="X25519MLKEM768",
            alpn=b"h2",
            sni="",
            remote_verified=True,
            remote_names=("dns:a.example", "email:b@c.example"),
            remote_subject="CN=a",
            remote_sha256=bytes(32),
        ),
    ),
    encode(0x72, 7, AskExport(session_id=1, question=2, label=b"l" * 20, has_context=True, context=b"c", size_b=32)),
    encode(0x76, 7, Told(session_id=1, question=2, code=0, value=b"v" * 32)),
    encode(
        0x7A,
        7,
        RemoteTold(
            session_id=1,
            question=2,
            asked=True,
            code=0,
            detail="",
            remote_verified=True,
            remote_names=("dns:a.example", "email:b@c.example"),
            remote_subject="CN=a",
            remote_sha256=bytes(32),
        ),
    ),
)


def mutate(chance: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        kind = chance.randrange(5)
        at = chance.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            data[0:2] = chance.choice(list(BY_CODE)).to_bytes(2, "big")
        else:
            data[at : at + 2] = chance.choice([b"\xff\xff", b"\0\0", b"\x80\0"])
    return bytes(data)


def test_mutated_frames():
    chance = random.Random(20200101)
    accepted = 0
    for _ in range(60_000):
        frame = mutate(chance, chance.choice(SEEDS))
        try:
            code, exchange = header_untrusted(frame)
            row = BY_CODE.get(code)
            if row is None:
                continue
            message = decode_untrusted(row.message, frame)
        except BadFrame:
            continue
        accepted += 1
        assert encode(code, exchange, message) == frame
    assert accepted > 1000  # the mutations do reach the inside of fields
