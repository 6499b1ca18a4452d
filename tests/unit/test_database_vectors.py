"""Records of earlier pools and of ours, byte for byte: each vector is read, and what is read is written again.

A vector has the bytes of a key and of a value, and what they mean; null: the value is malformed.  ``writes`` is there
where we write the same thing with other bytes.
"""

import json
from pathlib import Path

import pytest

from tlspool_broker import records, trustdata
from tlspool_broker.records import Disclosed
from tlspool_common.errors import Code, PoolError

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "databases").glob("*.json"))


def test_there_are_vectors():
    assert len(VECTORS) >= 40


@pytest.mark.parametrize("path", VECTORS, ids=[path.stem for path in VECTORS])
def test_vector(path):
    vector = json.loads(path.read_text())
    key, value, means = bytes.fromhex(vector["key"]), bytes.fromhex(vector["value"]), vector["means"]
    decode = {
        "localid": records.decode_local_untrusted,
        "disclose": records.decode_disclosure_untrusted,
        "trust": records.decode_trust_untrusted,
        "policy": records.decode_policy_untrusted,
    }[vector["database"]]
    if means is None:
        with pytest.raises(PoolError) as caught:
            decode(value)
        assert caught.value.code is Code.RECORD_MALFORMED
        return
    {"localid": local, "disclose": disclosed, "trust": trusted, "policy": policy}[vector["database"]](
        key, value, decode(value), means
    )


def local(_key, value, record, means):
    assert record.encode() == value
    assert records.local_flags(means["words"]) == record.flags == means["flags"]
    assert records.local_words(record.flags) == means["words"]
    assert (record.uri, record.credential.hex()) == (means["uri"], means["credential"])
    if "chain" in means:
        assert [der.hex() for der in record.chain()] == means["chain"]


def disclosed(_key, value, record, means):
    assert record == Disclosed(means["identity"], means["expression"])
    assert record.encode() == value


def policy(_key, value, name, means):
    assert name == means["name"]
    assert name.encode() == value


def trusted(key, value, record, means):
    assert record.encode() == value
    assert (record.flags, record.valexp, record.data.hex()) == (means["flags"], means["valexp"], means["data"])
    assert records.trust_words(record.flags) == means["words"]
    kinds = {"anchor": record.is_anchor, "pin": record.is_pin, "revocations": record.is_revocation}
    assert kinds.get(means["kind"], True)
    assert sum(kinds.values()) == (means["kind"] != "other")
    assert record.may_be_no_root is means.get("not_root", False)
    writes = bytes.fromhex(means.get("writes", value.hex()))
    if means["kind"] == "pin":
        pin = trustdata.pin_of(key, record)
        assert (pin.sha256, pin.until_s, pin.before_s) == (key, means["until_s"], means["before_s"])
        assert (pin.remote, pin.for_sides) == (means["remote"], means["for_sides"])
        assert pin.encode() == writes
    elif means["kind"] == "revocations":
        found = trustdata.revocations_of(record)
        assert (found.this_update_s, found.next_update_s) == (means["this_update_s"], means["next_update_s"])
        assert sorted(one.hex() for one in found.serials) == means["serials"]
        assert found.encode(record.flags) == writes
    elif means["kind"] == "malformed":
        with pytest.raises(PoolError) as caught:
            trustdata.pin_of(key, record) if record.is_pin else trustdata.revocations_of(record)
        assert caught.value.code is Code.RECORD_MALFORMED
