"""What is kept of a grant: what comes out is what went in, or nothing does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker import kept_access
from tlspool_broker.meter import Meter
from tlspool_broker.radius_grant import Admission
from tlspool_common import limits
from tlspool_common.codec import BadFrame
from tlspool_common.errors import Code, PoolError

ACCESS = Admission(
    rule="mail", acct_id="0a1b-FF", attributes=("User-Name=a@b.example", "Class=x"), accounts=True, accepts_unkept=True,
    classes=(b"\0class",), tags=("staff", "é"), state=b"state", session_timeout_s=3600, idle_timeout_s=60,
    interim_s=600, terminate=1, servers=("192.0.2.1:1812", "192.0.2.2:1812"), authn=True, authz=True,
)  # fmt: skip
METER = Meter(began_ms=1_000, timed_ms=2_000, active_ms=3_000, updates=5, asked_ms=7)


def session(access=ACCESS, meter=METER):
    return SimpleNamespace(access=access, meter=meter)


def test_there_and_back():
    access, meter = kept_access.from_bytes_untrusted(kept_access.to_bytes(session()))
    assert access == ACCESS
    assert (meter.began_ms, meter.timed_ms, meter.active_ms) == (1_000, 2_000, 3_000)
    assert (meter.updates, meter.asked_ms, meter.told) == (0, None, None)


def test_a_session_that_radius_has_nothing_to_do_with():
    assert kept_access.to_bytes(session(access=None)) == kept_access.to_bytes(session(meter=None)) == b""
    assert kept_access.from_bytes_untrusted(b"") is None


def test_the_longest_fits():
    """Of attributes a packet has less than 1600 bytes (radius_policy.ATTRIBUTES_B), besides their names."""
    longest = replace(
        ACCESS, rule="r" * 32, acct_id="a" * limits.RADIUS_ACCT_ID_B, attributes=("n" * 40 + "=" + "v" * 35,) * 46,
        classes=(bytes(limits.RADIUS_VALUE_B),) * limits.RADIUS_CLASSES, state=bytes(limits.RADIUS_VALUE_B),
        tags=("t" * limits.RADIUS_VALUE_B,) * limits.RADIUS_TAGS, servers=("s" * limits.RADIUS_SERVER_B,) * 2,
    )  # fmt: skip
    data = kept_access.to_bytes(session(longest))
    assert 9_000 < len(data) <= kept_access.ACCESS_B
    assert kept_access.from_bytes_untrusted(data)[0] == longest


def test_what_does_not_fit():
    with pytest.raises(BadFrame, match="tags"):
        kept_access.to_bytes(session(replace(ACCESS, tags=("t" * 300,))))


@given(st.binary(min_size=1, max_size=300))
def test_anything_else_is_told(data):
    for one in (data, kept_access.to_bytes(session())[:9] + data):
        with pytest.raises(PoolError) as caught:
            kept_access.from_bytes_untrusted(one)
        assert caught.value.code is Code.INTERNAL
