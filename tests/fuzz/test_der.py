"""What is changed stays DER, and everything around it fits."""

import random

import pytest
from cryptography import x509

from tests.fuzz import der, seeds

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

LEAF = seeds.der("certificate-0-leaf")


def test_elements():
    inner = der.element(
        0x30, der.element(0x02, b"\5") + der.element(0x04, der.element(0x30, der.element(0x01, b"\xff")))
    )
    data = der.element(0x31, inner + b"\x05\0")
    assert [data[node.at] for node in der.nodes(data)] == [0x31, 0x30, 0x02, 0x04, 0x30, 0x01, 0x05]
    number = der.nodes(data)[2]
    assert der.replaced(data, number, der.element(0x02, bytes(200))) == der.element(
        0x31, der.element(0x30, der.element(0x02, bytes(200)) + inner[5:]) + b"\x05\0"
    )
    assert der.nodes(b"\x30\5\2") == der.nodes(b"\x30\x80\0\0") == []


@pytest.mark.parametrize("manner", der.MANNERS)
def test_it_stays_der(manner):
    chance = random.Random(manner)
    changed = read = 0
    for _ in range(300):
        data = der.edited(LEAF, manner, chance.randrange(1 << 20), chance.randrange(256), chance.randbytes(3))
        assert der.nodes(data) or not data
        changed += data != LEAF
        try:
            x509.load_der_x509_certificate(data)
            read += 1
        except (ValueError, x509.InvalidVersion):
            pass
    assert changed > 100
    assert read > 3  # octets changed at random are read hardly ever
