from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlspool_broker.validation.levels import (
    ALTERNATIVE,
    STRONG,
    first_classical,
    group_resists_quantum,
    key_bits,
    weakest,
)


@pytest.mark.parametrize(
    ("line", "bits"),
    [
        ("rsa 1023 sha256", 0),
        ("rsa 1024 sha256", 80),
        ("rsa 2047 sha256", 80),
        ("rsa 2048 sha256", 112),
        ("rsa 3072 sha256", 128),
        ("rsa-pss 3072 sha384", 128),
        ("rsa 7680 sha384", 192),
        ("rsa 16384 sha512", 256),
        ("rsa 4096 sha1", 0),
        ("rsa 4096 md5", 0),
        ("rsa 4096 sha224", 112),
        ("rsa 4096 sha512-224", 112),
        ("dsa 2048 sha256", 112),
        ("ec 160 sha256", 80),
        ("ec 192 sha256", 80),
        ("ec 224 sha256", 112),
        ("ec 256 sha256", 128),
        ("EC 384 SHA384", 192),
        ("ec 521 sha512", 256),
        ("ed25519 256 -", 128),
        ("ed448 456 -", 224),
        ("ml-dsa-44 0 -", 128),
        ("ML-DSA-87 0 -", 256),
        ("slh-dsa-shake-192f 0 -", 192),
        ("slh_dsa_sha2_128s 0 -", 128),
        ("ml-dsa-99 0 -", 0),
        ("gost2012 256 streebog", 0),
        ("ec 256 unknown", 0),
        ("unknown 0 sha256", 0),
        ("rsa -2048 sha256", 0),
        ("rsa ٣٠٧٢ sha256", 0),
        ("rsa 99999999999 sha256", 0),
        ("rsa 4096", 0),
        ("rsa", 0),
        ("", 0),
    ],
)
def test_bits_of_security(line: str, bits: int) -> None:
    assert weakest((line,), anchored=False)[0] == bits


def test_the_levels() -> None:
    assert (STRONG, ALTERNATIVE) == (128, 112)


def test_the_weakest_is_named() -> None:
    chain = ["ec 384 sha256", "rsa 2048 sha384", "ec 384 sha384"]
    assert weakest(tuple(chain), anchored=True) == (112, "the key of certificate 2 of the chain is rsa 2048")
    assert weakest(
        (
            "ec 256 sha1",
            "ec 256 -",
        ),
        anchored=True,
    ) == (0, "the signature on the leaf is made with sha1")
    assert weakest(("rsa 1024 sha256",), anchored=False) == (80, "the key of the leaf is rsa 1024")


def test_nobody_relies_on_the_signature_of_an_anchor() -> None:
    chain = ["ec 256 sha256", "rsa 4096 sha1"]
    assert weakest(tuple(chain), anchored=True)[0] == 128
    assert weakest(tuple(chain), anchored=False)[0] == 0
    # but on its key
    assert (
        weakest(
            (
                "ec 256 sha256",
                "rsa 1024 sha256",
            ),
            anchored=True,
        )[0]
        == 80
    )
    # a leaf that is the anchor
    assert weakest(("ec 256 sha1",), anchored=True)[0] == 128


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.booleans())
def test_no_line_is_too_odd(lines: list[str], anchored: bool) -> None:
    bits, which = weakest(tuple(lines), anchored)
    assert 0 <= bits <= 512
    assert which
    first_classical(lines)


@settings(deadline=None)
@given(st.integers(0, 20000), st.integers(0, 20000))
def test_a_larger_key_is_not_weaker(one: int, other: int) -> None:
    for kind in ("rsa", "ec", "dsa"):
        assert (key_bits(kind, str(min(one, other))) <= key_bits(kind, str(max(one, other)))) is True


@pytest.mark.parametrize(
    "group", ["X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "MLKEM1024", "mlkem768"]
)
def test_groups_that_resist(group: str) -> None:
    assert group_resists_quantum(group)


@pytest.mark.parametrize("group", ["", "x25519", "secp256r1", "ffdhe3072", "X25519Kyber768Draft00", "X25519MLKEM", "X"])
def test_groups_that_do_not(group: str) -> None:
    assert not group_resists_quantum(group)


def test_one_classical_key_is_enough_to_forge() -> None:
    assert first_classical(["ml-dsa-65 0 -", "slh-dsa-sha2-192s 0 -"]) == ""
    assert first_classical(["ml-dsa-65 0 -", "rsa 4096 sha256"]) == "the key of certificate 2 of the chain is rsa"
    assert first_classical(["ec 256 -", "ml-dsa-65 0 -"]) == "the key of the leaf is ec"
    assert first_classical(["ml-dsa-1 0 -"]) == "the key of the leaf is ml-dsa-1"
