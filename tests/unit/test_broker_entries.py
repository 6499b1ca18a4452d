"""Records of one key: those that parse, the others, and what is left when some are removed."""

import struct

from tlspool_broker import records
from tlspool_broker.entries import Name, located, read_entry, shown_key, without
from tlspool_common.errors import Code, PoolError


def decode(value):
    if value == b"bad":
        raise PoolError(Code.RECORD_MALFORMED, "it is bad")
    return value.decode()


def test_bad_records_do_not_hide_good_ones():
    entry = read_entry(Name.LOCALID, b"x.example", [b"one", b"bad", b"two"], decode)
    assert entry.good == ("one", "two")
    assert [error.detail for error in entry.bad] == ["localid x.example: it is bad"]


def test_keys_for_people():
    assert shown_key(Name.TRUST, b"\xaa\xbb") == "aabb"
    assert shown_key(Name.LOCALID, b"a\xff") == "a\\xff"
    error = located(PoolError(Code.RECORD_MALFORMED, "why"), Name.TRUST, b"\x01")
    assert (error.code, error.detail) == (Code.RECORD_MALFORMED, "trust 01: why")


def value(flags, rest=b"rest"):
    return struct.pack("!I", flags) + rest


def test_removal_by_kind_and_role():
    x509, both = records.X509, records.CLIENT | records.SERVER
    values = [value(x509 | both), value(x509 | records.SERVER), value(records.VALEXP | both), b"x"]
    mask = records.TYPE_MASK
    assert without(values, mask, x509, 0) == [value(records.VALEXP | both)]
    assert without(values, mask, x509, records.SERVER) == [value(x509 | records.CLIENT), value(records.VALEXP | both)]
    assert without(values, mask, x509, both) == [value(records.VALEXP | both)]
    assert without([], mask, x509, both) == []
