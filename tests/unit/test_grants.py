"""Grants: sealed as a whole, read only behind an intact seal."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import grants
from tlspool_common.codec import BadFrame
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side

SECRET = bytes(range(32))
GRANT = grants.Grant(
    grant_id=bytes(16),
    worker_id=3,
    session_id=9,
    side=Side.SERVER,
    expires_ms=grants.now_ms() + 1000,
    spki_sha256=bytes(32),
    key_uri="pkcs11:token=T;object=o",
)


def test_round_trip():
    assert grants.unseal_untrusted(SECRET, grants.seal(SECRET, GRANT)) == GRANT


def test_no_bit_can_be_changed():
    sealed = grants.seal(SECRET, GRANT)
    for bit in range(len(sealed) * 8):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PoolError) as caught:
            grants.unseal_untrusted(SECRET, bytes(forged))
        assert caught.value.code is Code.GRANT_REFUSED


def test_another_secret_seals_another_grant():
    with pytest.raises(PoolError):
        grants.unseal_untrusted(bytes(32), grants.seal(SECRET, GRANT))


@given(st.binary(max_size=300))
def test_bytes_are_no_grant(data):
    with pytest.raises(PoolError):
        grants.unseal_untrusted(SECRET, data)


@pytest.mark.parametrize("change", [{"grant_id": b"x"}, {"spki_sha256": b""}, {"key_uri": "x" * 513}])
def test_what_does_not_fit_is_not_sealed(change):
    with pytest.raises(BadFrame):
        grants.seal(SECRET, dataclasses.replace(GRANT, **change))


def test_ids_differ():
    assert grants.new_id() != grants.new_id()
