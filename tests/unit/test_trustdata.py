"""Pins and revocations, beyond the vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker import records, trustdata
from tlspool_broker.records import TrustRecord
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common.errors import Code, PoolError

times = st.integers(0, 0xFFFFFFFF)
pins = st.builds(
    Pin, st.binary(min_size=32, max_size=32), times, times, st.sampled_from(["mail.example", "j@a.b"]), st.just(3)
)
serials = st.integers(-(2**159), 2**159)


@given(pins)
def test_pins_round_trip(pin: Pin) -> None:
    assert trustdata.pin_of(pin.sha256, records.decode_trust_untrusted(pin.encode())) == pin


@given(times, times, st.frozensets(serials.map(trustdata.serial_of), max_size=20))
def test_revocations_round_trip(this_s: int, next_s: int, serials: frozenset[bytes]) -> None:
    found = Revocations(this_s, next_s if next_s > this_s else 0, serials)
    assert trustdata.revocations_of(records.decode_trust_untrusted(found.encode(0x701))) == found


@given(serials)
def test_serials_are_minimal_der(number: int) -> None:
    content = trustdata.serial_of(number)
    assert int.from_bytes(content, "big", signed=True) == number
    # DER: the first nine bits are not all the same (X.690 section 8.3.2)
    if len(content) > 1 and number != -(1 << (8 * len(content) - 9)):
        assert content[0] not in (0, 0xFF) or (content[0] == 0) == (content[1] >= 0x80)


@given(st.sampled_from([0x401, 0x801, 0x20801, 0xB01]), st.binary(max_size=60), st.binary(max_size=40))
def test_any_data_is_read_or_malformed(flags: int, data: bytes, key: bytes) -> None:
    record = TrustRecord(flags, "1", data)
    for read in (lambda: trustdata.revocations_of(record), lambda: trustdata.pin_of(key, record)):
        try:
            read()
        except PoolError as error:
            assert error.code is Code.RECORD_MALFORMED


@pytest.mark.parametrize(
    ("until_s", "before_s", "now_s", "over", "replaceable"),
    [
        (0, 0, 2_000_000_000, False, False),
        (1000, 0, 1000, False, False),
        (1000, 0, 1001, True, True),
        (1000, 100, 900, False, False),
        (1000, 100, 901, False, True),
        (1000, 100, 1001, True, True),
    ],
)
def test_when_a_pin_holds(until_s: int, before_s: int, now_s: int, over: bool, replaceable: bool) -> None:
    pin = Pin(bytes(32), until_s, before_s)
    assert (pin.is_over(now_s), pin.is_replaceable(now_s)) == (over, replaceable)


def test_several_records_of_an_issuer_are_one() -> None:
    old, new = Revocations(10, 20, frozenset({b"\1"})), Revocations(15, 0, frozenset({b"\2"}))
    assert trustdata.merged([new, old]) == trustdata.merged([old, new]) == Revocations(15, 0, frozenset({b"\1", b"\2"}))


def test_no_serial_is_written_that_would_not_be_read() -> None:
    longest = bytes([1]) + bytes(63)
    for serial in (longest, longest + b"\0", bytes([1]) + bytes(255)):
        found = Revocations(1, 0, frozenset({b"\1", serial}))
        if serial == longest:
            assert trustdata.revocations_of(records.decode_trust_untrusted(found.encode(0x701))) == found
            continue
        with pytest.raises(PoolError) as caught:
            found.encode(0x701)
        assert caught.value.code is Code.RECORD_MALFORMED
