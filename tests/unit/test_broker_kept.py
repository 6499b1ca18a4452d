"""Records of sessions: what comes out is what went in, or nothing does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbook.broker import kept_of
from tlspool_broker import kept, kept_access
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

KEY = b"k" * 32
SEALED = kept.seal(KEY, kept_of(5, 7))


def test_there_and_back():
    assert kept.unseal_untrusted(KEY, SEALED, 5, 7) == kept_of(5, 7)


def test_the_longest_fits():
    """Names beyond what is remembered are left out when the record is made (kept.of)."""
    names = kept._few(tuple(f"dns:{number:0300}.example" for number in range(64)))
    long = {
        "unit": "u" * 256, "command": "c" * 64, "request": bytes(380), "planned": "a" * 127, "localid": "a" * 127,
        "expected": "a" * 127, "cipher": "c" * 64, "group": "g" * 64, "alpn": bytes(255), "sni": "s" * 255,
        "remote_names": names, "remote_subject": "s" * 1024, "remoteid": "r" * 127,
        "access": bytes(kept_access.ACCESS_B),
    }  # fmt: skip
    sealed = kept.seal(KEY, kept_of(2**64 - 1, 2**32 - 1, **long))
    assert 15_000 < len(sealed) <= limits.RECORD_B
    assert 5 < len(names) < 64


def test_another_key_says_nothing():
    assert kept.unseal_untrusted(b"o" * 32, SEALED, 5, 7) is None
    assert kept.unseal_untrusted(KEY, b"", 5, 7) is None


@pytest.mark.parametrize(("session_id", "worker_id"), [(6, 7), (5, 8)])
def test_it_is_of_one_session_and_one_worker(session_id, worker_id):
    with pytest.raises(PoolError) as caught:
        kept.unseal_untrusted(KEY, SEALED, session_id, worker_id)
    assert caught.value.code is Code.INTERNAL


def attempt(data):
    """Return a record, None, or the error: nothing else may come."""
    try:
        return kept.unseal_untrusted(KEY, data, 5, 7)
    except PoolError as error:
        assert error.code is Code.INTERNAL
        return error


@given(st.binary(max_size=300))
def test_bytes_of_a_stranger_are_no_record(data):
    assert attempt(data) is None
    assert isinstance(attempt(kept.key_id(KEY) + data), PoolError)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_bit_may_be_another(at, change):
    data = bytearray(SEALED)
    data[at] ^= change
    assert attempt(bytes(data)) is None if at < 8 else isinstance(attempt(bytes(data)), PoolError)


@given(st.integers(0, len(SEALED) - 1))
def test_nothing_may_be_missing(size):
    assert not isinstance(attempt(SEALED[:size]), kept.Kept)
    assert isinstance(attempt(SEALED + b"x"), PoolError)


def test_the_control_key_is_not_in_it():
    assert b"k" * 16 not in kept.seal(KEY, kept_of(5, 7, control=bytes(16)))
