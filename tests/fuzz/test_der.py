"""What is changed stays DER, and everything around it fits."""

import random
from collections import Counter

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
    found = {path[-1]: path for where in range(len(data)) if (path := der.path(data, where))}
    assert [data[at] for at, _, _ in sorted(found)] == [0x31, 0x30, 0x02, 0x04, 0x30, 0x01, 0x05]
    assert {tuple(path) for path in found.values()} == {
        tuple(der.chosen(data, number * 7919 % (1 << 20))) for number in range(200)
    }
    number = der.path(data, data.index(b"\x02\1\5"))
    assert der.replaced(data, number, der.element(0x02, bytes(200))) == der.element(
        0x31, der.element(0x30, der.element(0x02, bytes(200)) + inner[5:]) + b"\x05\0"
    )
    assert der.path(b"\x30\5\2", 0) == der.path(b"\x30\x80\0\0", 0) == der.chosen(b"", 5) == []
    digest = der.element(0x04, b"\x30\1\5\x17\x55")  # the last one does not fit
    assert len(der.path(digest, 4)) == 1


def test_every_element_is_chosen():
    every = {tuple(der.path(LEAF, where)) for where in range(len(LEAF))}
    chance = random.Random(1)
    drawn = Counter(tuple(der.chosen(LEAF, chance.getrandbits(20))) for _ in range(100 * len(every)))
    assert drawn.keys() == every
    assert min(drawn.values()) > 15  # keys and signatures, with nearly all octets, leave something for the others


def fits(data):
    """Whether elements stand one behind the other."""
    while data:
        path = der.path(data, 0)
        if not path:
            return False
        data = data[path[0][2] :]
    return True


@pytest.mark.parametrize("manner", der.MANNERS)
def test_it_stays_der(manner):
    chance = random.Random(manner)
    changed = read = 0
    for _ in range(300):
        data = der.edited(LEAF, manner, chance.randrange(1 << 20), chance.randrange(256), chance.randbytes(3))
        assert fits(data)
        changed += data != LEAF
        try:
            x509.load_der_x509_certificate(data)
            read += 1
        except (ValueError, x509.InvalidVersion):
            pass
    assert changed > 100
    assert read > 3  # octets changed at random are read hardly ever
