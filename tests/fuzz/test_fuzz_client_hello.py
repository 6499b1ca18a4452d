"""Invariant: whatever a stranger sends, reading a ClientHello ends in one, in "more", or in HelloRefused.

And how the bytes are cut into pieces makes no difference to the answer, and no more is kept than the bound.
"""

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tlspool_common import limits
from tlspool_common.codec import encode
from tlspool_common.errors import Code
from tlspool_common.messages import ClientHelloSeen
from tlspool_worker.client_hello import HelloReader, HelloRefused

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "vectors" / "hello").glob("*.bin"))]


def outcome(pieces):
    """Feed pieces; return the answer, and check it."""
    reader = HelloReader()
    try:
        for piece in pieces:
            found = reader.feed_untrusted(piece)
            if found is not None:
                # It fits a message to the broker, whatever it is.
                assert encode(0x62, 0, ClientHelloSeen(session_id=1, sni=found.sni, alpn=found.alpn))
                assert len(found.alpn) <= limits.ALPN_B
                return found
    except HelloRefused as error:
        assert error.code in (Code.REMOTE_NOT_TLS, Code.REMOTE_PROTOCOL, Code.REMOTE_ALERT)
        assert 0 <= error.alert <= 255
        assert len(error.detail) < 200
        return error.code
    return None


def mutate(chance, data):
    data = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        kind = chance.randrange(6)
        at = chance.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            data[at : at + 2] = chance.choice([b"\xff\xff", b"\0\0", b"\x40\0", b"\0\x10"])
        elif kind == 4 and len(data) > 60:
            body = data[5:]
            cut = chance.randrange(1, len(body))
            data = bytearray(
                b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in (body[:cut], body[cut:]))
            )
        else:
            start = chance.randrange(len(data) or 1)
            data[at:at] = data[start : start + chance.randint(1, 40)]
    return bytes(data)


def test_mutated_hellos():
    chance = random.Random(8446)
    found = {None: 0, "hello": 0, "refused": 0}
    for _ in range(30_000):
        data = mutate(chance, chance.choice(SEEDS))
        whole = outcome([data])
        cut = chance.randrange(len(data) + 1)
        pieces = outcome([data[:cut], data[cut:]])
        if whole != pieces:
            # Only the guess at what speaks in plaintext may depend on how much has come.
            assert {whole, pieces} <= {Code.REMOTE_NOT_TLS, Code.REMOTE_PROTOCOL}, (data, cut)
        found[None if whole is None else "refused" if isinstance(whole, Code) else "hello"] += 1
    assert min(found.values()) > 1000  # the mutations do reach the inside


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_garbage(pieces):
    outcome(pieces)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(1, 40))
def test_garbage_in_a_proper_frame(body, size_b):
    message = b"\1" + len(body).to_bytes(3) + body
    records = [message[at : at + size_b] for at in range(0, len(message), size_b)]
    outcome([b"\x16\x03\x01" + len(record).to_bytes(2) + record for record in records])
