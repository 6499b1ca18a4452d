"""A generation that is held while the databases go on."""

import pytest

from tests.fixtures.databases import Databases
from tests.playbook.broker import FakeRecords, anchor, credential
from tlspool_broker.snapshot import Snapshot, Snapshots
from tlspool_broker.trustdata import Pin
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import Side

LOCALHOST, WWW = parse_untrusted("localhost"), parse_untrusted("www.example.com")


def everything(records):
    return (
        records.generation,
        records.trust_generation,
        records.credentials(LOCALHOST, Side.SERVER),
        records.expression(LOCALHOST, Side.SERVER),
        records.judged_identities(Side.SERVER),
        records.disclosed(WWW),
        records.disclosure(WWW),
        records.disclosure_expression(WWW),
        records.anchors(),
        records.needs_judging(Side.SERVER),
        records.pins("www.example.com"),
        records.revocations(anchor().key),
        records.crypto_policy("smtp", "localhost"),
    )


@pytest.mark.parametrize("trust", [False, True])
def test_nothing_of_it_changes(trust):
    live = FakeRecords()
    held = Snapshots(live).take()
    before = everything(held)
    live.change(
        trust=trust,
        identities={("localhost", Side.SERVER): [credential("other")]},
        expressions={("localhost", Side.SERVER): "T"},
        disclosures={"www.example.com": ["localhost"]},
        disclosure_expressions={"www.example.com": "F"},
        policies={"host": "modern"},
    )
    if trust:
        live.change(
            trust=True, trusted=[], stored_pins={"www.example.com": [Pin(bytes(32))]}, revoked={anchor().key: 1}
        )
    assert everything(held) == before
    assert everything(held) != everything(Snapshot(live))
    assert everything(Snapshot(live)) == everything(live)


def test_sessions_of_one_generation_share_it():
    live = FakeRecords()
    snapshots = Snapshots(live)
    assert snapshots.newest == 0
    first = snapshots.take()
    assert snapshots.take() is first
    live.change()
    assert snapshots.newest == 7
    assert snapshots.take() is not first
    assert snapshots.newest == 8


def test_what_is_written_goes_to_the_present():
    live = FakeRecords()
    held = Snapshot(live)
    live.change()
    assert held.disclose_add(WWW, LOCALHOST, first=True, move=False)
    held.pin_add("www.example.com", b"x" * 32, "a", "r", Side.CLIENT)
    assert live.added
    assert live.pinned
    assert live.pins("www.example.com")
    assert not held.pins("www.example.com")
    assert held.at(7) is live.past[7]


def test_the_real_databases(tmp_path):
    """What is read of a generation that is over is what was there."""
    live = Databases(tmp_path)
    try:
        snapshots = Snapshots(live)
        live.localid_set(LOCALHOST, 0x105, [("F", ())])  # valexp, client
        held = snapshots.take()
        assert (held.expression(LOCALHOST, Side.CLIENT), held.judged_identities(Side.CLIENT)) == ("F", True)
        for text in ("A", "1", "T"):
            live.localid_set(LOCALHOST, 0x105, [(text, ())])
            assert held.expression(LOCALHOST, Side.CLIENT) == "F"
            assert held.judged_identities(Side.CLIENT)
            assert snapshots.take().expression(LOCALHOST, Side.CLIENT) == text
            assert snapshots.take().judged_identities(Side.CLIENT) is (text != "1")
        live.localid_del(LOCALHOST)
        assert not live.judged_identities(Side.CLIENT)
        assert held.expression(LOCALHOST, Side.CLIENT) == "F"
        assert held.generation == 2
        live.pin_add("www.example.com", bytes(32), "me", "test", Side.CLIENT)
        assert live.needs_judging(Side.CLIENT)
        assert not held.needs_judging(Side.CLIENT)
        assert not held.pins("www.example.com")
    finally:
        live.close()
