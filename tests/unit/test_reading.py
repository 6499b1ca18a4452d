"""What sessions ask: expressions, pins, revocations, policies; in the present and in the past."""

from __future__ import annotations

import hashlib

import pytest

from tests.fixtures import certs, legacy_databases
from tests.fixtures.databases import Databases, localid_set, trust_set
from tlspool_broker import records, trustdata
from tlspool_broker.history import By
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_selector_untrusted, parse_untrusted
from tlspool_common.messages import Side

EXAMPLE = parse_untrusted("example.com")
URI = "pkcs11:token=T;object=o1"
X509_BOTH = records.X509 | records.CLIENT | records.SERVER
VALEXP = records.VALEXP | records.CLIENT | records.SERVER
SHA256 = hashlib.sha256(certs.leaf().der).digest()
NOW_S = 1_700_000_000


@pytest.fixture
def reports():
    return []


@pytest.fixture
def databases(tmp_path, reports):
    made = Databases(tmp_path / "db", report=reports.append, now_s=lambda: NOW_S, history_keep=20)
    yield made
    made.close()


def counting(databases, monkeypatch):
    """Count transactions from now on."""
    seen = []
    run = databases._environment._run
    monkeypatch.setattr(databases._environment, "_run", lambda *args: (seen.append(1), run(*args))[1])
    return seen


def test_expressions_of_an_identity(databases) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    assert databases.expression(EXAMPLE, Side.SERVER) == ""
    databases.localid_set(EXAMPLE, records.VALEXP | records.SERVER, [("TI&R&", [])])
    assert databases.expression(EXAMPLE, Side.SERVER) == "TI&R&"
    assert databases.expression(EXAMPLE, Side.CLIENT) == ""
    assert databases.expression(parse_untrusted("nobody.example"), Side.CLIENT) == ""
    assert databases.credentials(EXAMPLE, Side.SERVER), "they are usable all the same"
    databases.localid_set(EXAMPLE, VALEXP, [("T", [])])
    assert databases.expression(EXAMPLE, Side.SERVER) == databases.expression(EXAMPLE, Side.CLIENT) == "T"


def test_several_or_wrong_expressions_of_other_tools(tmp_path) -> None:
    legacy_databases.write(
        tmp_path,
        "localid.db",
        [
            (b"two.example", b"\0\0\1\5TI&\0"),
            (b"two.example", b"\0\0\3\5e~\0"),
            (b"bad.example", b"\0\0\1\5TI\0"),
            (b"cut.example", b"\0\0\1\5TI&"),
            (b"cut.example", b"\0\0\3\5T\0"),
        ],
    )
    legacy_databases.write(
        tmp_path, "disclose.db", [(b".", b"\0T"), (b".", b"two.example"), (b".", b"\0R"), (b".org", b"\0\xff")]
    )
    databases = Databases(tmp_path)
    assert databases.expression(parse_untrusted("two.example"), Side.CLIENT) == "TI&e~&"
    assert databases.expression(parse_untrusted("two.example"), Side.SERVER) == "e~"
    for ask in (
        lambda: databases.expression(parse_untrusted("bad.example"), Side.CLIENT),
        lambda: databases.expression(parse_untrusted("cut.example"), Side.CLIENT),
        lambda: databases.disclosure_expression(parse_untrusted("a.org")),
    ):
        with pytest.raises(PoolError) as caught:
            ask()
        assert caught.value.code is Code.RECORD_MALFORMED
    assert databases.expression(parse_untrusted("cut.example"), Side.SERVER) == "T", "a condition of the other role"
    assert databases.judged_identities(Side.CLIENT)
    assert databases.disclosure_expression(parse_untrusted("a.com")) == "TR&"
    assert databases.disclosure(parse_untrusted("a.com")) == (".", ["two.example"])
    databases.close()


def test_the_expression_of_a_selector(databases) -> None:
    a, b = parse_untrusted("a.example"), parse_untrusted("b.example")
    for one in (a, b):
        databases.localid_set(one, X509_BOTH, [(URI, [certs.leaf().der])])
    org, remote = parse_selector_untrusted(".org"), parse_untrusted("mail.org")
    databases.disclose_set(org, [a], "TR&")
    assert databases.disclosure_expression(remote) == "TR&"
    databases.disclose_set(org, [b])
    assert (databases.disclosure_expression(remote), databases.disclosed(remote)) == ("TR&", ["b.example"]), "it stays"
    databases.disclose_add(org, a, first=True, move=False)
    assert databases.disclosed(remote) == ["a.example", "b.example"]
    assert databases.disclosure_expression(remote) == "TR&"
    databases.disclose_set(org, [b], "")
    assert databases.disclosure_expression(remote) == ""
    databases.disclose_set(org, [], "T")
    assert databases.disclosure(remote) == (".org", []), "the walk ends there"
    with pytest.raises(PoolError):
        databases.disclose_set(org, [b], "TR")


def test_answers_are_remembered_until_they_change(databases, monkeypatch) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.localid_set(EXAMPLE, VALEXP, [("T", [])])
    databases.disclose_set(parse_selector_untrusted("."), [EXAMPLE])
    databases.trust_set(0x301, "1", [certs.root().der])
    databases.change(lambda edit: edit.policy_set("host", "modern"))
    remote = parse_untrusted("mail.example")

    def ask():
        databases.credentials(EXAMPLE, Side.SERVER)
        databases.expression(EXAMPLE, Side.SERVER)
        databases.disclosure(remote)
        databases.disclosure_expression(remote)
        databases.anchors()
        databases.pins("mail.example")
        databases.revocations(b"\1")
        databases.needs_judging(Side.CLIENT)
        databases.crypto_policy("smtp", "example.com")
        return databases.generation, databases.trust_generation

    ask()
    seen = counting(databases, monkeypatch)
    assert ask() == (6, 5)
    assert seen == []
    databases.localid_set(parse_untrusted("other.example"), X509_BOTH, [(URI, [certs.leaf().der])])
    seen.clear()
    assert databases.credentials(EXAMPLE, Side.SERVER)
    assert databases.expression(EXAMPLE, Side.SERVER) == "T"
    assert len(databases.anchors()) == 1
    assert databases.generation == 7
    assert seen == [], "only what has changed is looked up again"


def test_names_of_remotes_do_not_fill_memory(databases, monkeypatch) -> None:
    monkeypatch.setattr("tlspool_broker.reading._REMOTES", 10)
    for number in range(100):
        assert databases.disclosure(parse_untrusted(f"n{number}.example")) == ("", [])
        assert databases.credentials(parse_untrusted(f"n{number}.example"), Side.SERVER) == []
        assert databases.expression(parse_untrusted(f"n{number}.example"), Side.SERVER) == ""
    assert len(databases._disclosures) <= 10
    assert not databases._credentials
    assert not databases._expressions


def test_pins(databases, tmp_path) -> None:
    assert databases.pins("mail.example") == []
    assert not databases.needs_judging(Side.CLIENT)
    databases.pin_add("mail.example", SHA256, "", "trust on first use", Side.CLIENT)
    assert databases.pins("mail.example") == [Pin(SHA256, remote="mail.example", for_sides=1)]
    assert databases.needs_judging(Side.CLIENT)
    assert databases.generation == 2
    assert databases.trust_generation == 1, "workers need not hear of it"
    databases.pin_add("mail.example", SHA256, "", "again", Side.CLIENT)
    assert databases.generation == 2
    [change] = databases.history(2, 2)
    assert change.by == By(command="trust.pin", reason="trust on first use")
    databases.pin_add("other.example", SHA256, "", "the same certificate", Side.CLIENT)
    assert databases.pins("mail.example") == [Pin(SHA256, remote="mail.example", for_sides=1)]
    assert databases.change(lambda edit: edit.unpin("mail.example")) == 1
    assert databases.pins("mail.example") == []
    assert databases.pins("other.example") == [Pin(SHA256, remote="other.example", for_sides=1)]
    databases.close()
    value = b"\0\2\x09\1" + b"1\0" + bytes(8) + b"other.example\0"
    assert legacy_databases.read(tmp_path / "db", "trust.db", SHA256) == [value]


def test_a_pin_is_replaced_when_that_is_allowed(databases) -> None:
    old, new = b"\1" * 32, b"\2" * 32
    held = Pin(b"\3" * 32, NOW_S + 100, 50, "mail.example")
    for pin in (Pin(old, NOW_S + 100, 200, "mail.example"), held):
        databases.change(lambda edit, pin=pin: edit.pin(pin))
    databases.pin_add("mail.example", new, "", "roll-over", Side.CLIENT)
    pins = {pin.sha256: (pin.until_s, pin.for_sides) for pin in databases.pins("mail.example")}
    assert pins == {new: (0, 1), held.sha256: (held.until_s, 3), old: (NOW_S + 100, 2)}
    databases.pin_add("mail.example", new, "", "roll-over", Side.SERVER)
    assert {pin.sha256: pin.for_sides for pin in databases.pins("mail.example")} == {new: 3, held.sha256: 3}


def test_pins_of_earlier_pools_are_for_any_remote(tmp_path) -> None:
    legacy_databases.write(tmp_path, "trust.db", [(SHA256, b"\0\0\x0b\0011\0"), (b"\2" * 32, b"\0\0\x08\0011\0")])
    databases = Databases(tmp_path)
    assert databases.pins("mail.example") == [Pin(SHA256)]
    databases.pin_add("mail.example", b"\4" * 32, "", "", Side.CLIENT)
    assert [pin.remote for pin in databases.pins("mail.example")] == ["mail.example", ""]
    databases.close()


def test_there_are_not_too_many_pins(databases, monkeypatch) -> None:
    monkeypatch.setattr(limits, "PINS", 3)
    for number in range(3):
        databases.pin_add(f"n{number}.example", bytes([number]) * 32, "", "", Side.CLIENT)
    with pytest.raises(PoolError) as caught:
        databases.pin_add("n4.example", SHA256, "", "", Side.CLIENT)
    assert caught.value.code is Code.PINS_FULL
    databases.change(lambda edit: edit.unpin("n0.example"))
    databases.pin_add("n4.example", SHA256, "", "", Side.CLIENT)
    assert databases.generation == 6


def test_revocations(databases) -> None:
    key = certs.root().key_identifier
    assert databases.revocations(key) is None
    found = Revocations(10, 20, frozenset({trustdata.serial_of(128), trustdata.serial_of(7)}))
    databases.trust_set(0x301, "1", [certs.root().der])
    databases.change(lambda edit: edit.revoke(key, found))
    assert databases.revocations(key) == found
    assert len(databases.anchors()) == 1
    assert (databases.trust_generation, databases.generation) == (2, 3)
    assert databases.needs_judging(Side.SERVER)
    databases.change(lambda edit: edit.revoke(key, None))
    assert databases.revocations(key) is None
    assert not databases.needs_judging(Side.SERVER)


def test_what_needs_judging(databases) -> None:
    databases.trust_set(0x301, "1", [certs.root().der])
    assert not databases.needs_judging(Side.CLIENT)
    databases.trust_set(0x101, "TR&", [certs.root().der])
    assert databases.needs_judging(Side.CLIENT)
    assert not databases.needs_judging(Side.SERVER)
    databases.trust_set(0x301, "1", [certs.root().der])
    assert not databases.needs_judging(Side.CLIENT)


def test_policies(databases) -> None:
    assert databases.crypto_policy("smtp", "example.com") == ""
    for key, name in (("host", "intermediate"), ("service:smtp", "modern"), ("localid:example.com", "fips-like")):
        databases.change(lambda edit, key=key, name=name: edit.policy_set(key, name))
    assert databases.crypto_policy("smtp", "example.com") == "fips-like"
    assert databases.crypto_policy("smtp", "other.example") == "modern"
    assert databases.crypto_policy("imap", "") == "intermediate"
    databases.change(lambda edit: edit.policy_set("host", ""))
    assert databases.crypto_policy("imap", "") == ""


# --- the past -----------------------------------------------------------------------------------------


def test_the_past_stays_as_it_was(databases) -> None:
    root, other = certs.root(), certs.make("Other root", ca=True, number=8)
    remote = parse_untrusted("mail.org")
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.localid_set(EXAMPLE, VALEXP, [("T", [])])
    databases.disclose_set(parse_selector_untrusted("."), [EXAMPLE], "R")
    databases.trust_set(0x301, "1", [root.der])
    databases.pin_add("mail.org", SHA256, "", "", Side.CLIENT)
    databases.change(lambda edit: edit.policy_set("host", "modern"))
    generation = databases.generation

    def told(records):
        return (
            records.generation,
            records.credentials(EXAMPLE, Side.SERVER),
            records.expression(EXAMPLE, Side.SERVER),
            records.disclosure(remote),
            records.disclosed(remote),
            records.disclosure_expression(remote),
            records.anchors(),
            records.pins("mail.org"),
            records.revocations(root.key_identifier),
            records.crypto_policy("smtp", ""),
            records.needs_judging(Side.CLIENT),
        )

    then = told(databases)
    before = databases.at(generation)
    changes = [
        lambda edit: localid_set(edit, EXAMPLE, X509_BOTH, [("pkcs11:object=new", [certs.leaf().der])]),
        lambda edit: localid_set(edit, EXAMPLE, VALEXP, [("0", [])]),
        lambda edit: edit.disclose_del(parse_selector_untrusted(".")),
        lambda edit: trust_set(edit, 0x301, "1", [other.der]),
        lambda edit: edit.trust_del(root.key_identifier),
        lambda edit: edit.unpin("mail.org"),
        lambda edit: edit.revoke(root.key_identifier, Revocations(1, 2, frozenset())),
        lambda edit: edit.policy_set("host", ""),
        lambda edit: edit.localid_del(EXAMPLE),
    ]
    assert told(before) == then
    for change in changes:
        databases.change(change)
        assert told(databases.at(generation)) == then
        assert told(before) == then, "one that is held as well"
    assert databases.anchors() != then[6]
    fresh = databases.at(generation)
    assert fresh is databases.at(generation)
    assert fresh.at(generation) is fresh
    with pytest.raises(PoolError) as caught:
        databases.at(databases.generation + 1)
    assert caught.value.code is Code.GENERATION_UNKNOWN
    before.pin_add("later.example", SHA256, "", "", Side.CLIENT)
    assert before.pins("later.example") == []
    assert databases.pins("later.example")


def test_a_past_that_the_history_has_dropped(databases) -> None:
    past = databases.at(1)
    for number in range(30):
        databases.localid_set(EXAMPLE, VALEXP, [("T" if number % 2 else "R", [])])
    with pytest.raises(PoolError) as caught:
        past.expression(EXAMPLE, Side.SERVER)
    assert caught.value.code is Code.GENERATION_UNKNOWN
    assert databases.oldest == 11
    databases.at(11)
    with pytest.raises(PoolError):
        databases.at(10)


def test_few_pasts_are_remembered(databases) -> None:
    for number in range(18):
        databases.localid_set(EXAMPLE, VALEXP, [("T" if number % 2 else "R", [])])
    for generation in range(1, 19):
        databases.at(generation)
    assert len(databases._pasts) <= limits.PASTS


# --- the history --------------------------------------------------------------------------------------


def test_history_diff_and_rollback(databases) -> None:
    databases.localid_set(EXAMPLE, VALEXP, [("T", [])])
    by = By(1000, "localid.set", "alice", "the auditor wants it")
    databases.change(lambda edit: localid_set(edit, EXAMPLE, VALEXP, [("TR&", [])]), by)
    databases.change(lambda edit: edit.policy_set("host", "modern"), by)
    assert [one.generation for one in databases.history(2, 4)] == [2, 3, 4]
    change = databases.history(3, 3)[0]
    assert (change.by, change.time_s) == (by, NOW_S)
    there = databases.diff(1, 4)
    assert list(there) == [("localid", b"example.com"), ("policy", b"host")]
    assert databases.diff(4, 1) == {place: (after, before) for place, (before, after) in there.items()}
    assert databases.diff(2, 2) == {}
    databases.rollback(2)
    assert databases.generation == 5
    assert databases.expression(EXAMPLE, Side.SERVER) == "T"
    assert databases.crypto_policy("", "") == ""
    assert databases.diff(2, 5) == {}
    databases.rollback(4)
    assert databases.diff(4, 6) == {}
    databases.rollback(6)
    assert databases.generation == 6, "it was like that already"
    for wrong in ((0, 2), (2, 7)):
        with pytest.raises(PoolError) as caught:
            databases.diff(*wrong)
        assert caught.value.code is Code.GENERATION_UNKNOWN
    for first, last in ((1, 1), (7, 7)):
        with pytest.raises(PoolError):
            databases.history(first, last)
    with pytest.raises(PoolError):
        databases.rollback(0)


def test_what_is_changed_and_changed_back_makes_no_generation(databases) -> None:
    databases.localid_set(EXAMPLE, VALEXP, [("T", [])])

    def there_and_back(edit) -> None:
        localid_set(edit, EXAMPLE, VALEXP, [("R", [])])
        localid_set(edit, EXAMPLE, VALEXP, [("T", [])])

    databases.change(there_and_back)
    assert databases.generation == 2


def test_all_of_a_change_or_nothing(databases) -> None:
    def half(edit) -> None:
        localid_set(edit, EXAMPLE, VALEXP, [("T", [])])
        edit.disclose_set(parse_selector_untrusted("."), [parse_untrusted("nobody.example")])

    with pytest.raises(PoolError):
        databases.change(half)
    assert (databases.generation, databases.localid_list()) == (1, [])


def test_an_expected_generation(databases) -> None:
    databases.change(lambda edit: edit.policy_set("host", "modern"), if_generation=1)
    with pytest.raises(PoolError) as caught:
        databases.change(lambda edit: edit.policy_set("host", ""), if_generation=1)
    assert caught.value.code is Code.GENERATION_OTHER
    assert "it is 2" in caught.value.detail
    databases.change(lambda edit: edit.policy_set("host", ""), if_generation=2)


def test_a_history_that_begins_later(tmp_path) -> None:
    """An environment of before there was a history has a generation without it."""
    legacy_databases.write(tmp_path, "generation.db", [(b"generation", (17).to_bytes(8, "big"))])
    databases = Databases(tmp_path, history_keep=3)
    assert (databases.generation, databases.oldest) == (17, 17)
    with pytest.raises(PoolError):
        databases.rollback(16)
    for number in range(6):
        databases.localid_set(EXAMPLE, VALEXP, [("R" + "~" * number, [])])
        assert databases.oldest == max(17, databases.generation - 3)
    assert [one.generation for one in databases.history(21, 23)] == [21, 22, 23]
    databases.rollback(20)
    assert databases.expression(EXAMPLE, Side.SERVER) == "R~~"
    databases.close()


def test_a_bundle_of_anchors_fits_and_can_be_undone(databases) -> None:
    padded = [certs.make(f"Root {number}", ca=True, number=2000 + number % 3, pad_b=600).der for number in range(400)]
    databases.change(
        lambda edit: [trust_set(edit, 0x301, "1", [der], bytes([n % 256, n // 256])) for n, der in enumerate(padded)]
    )
    assert databases.generation == 2
    assert len(databases.anchors()) == 400
    databases.rollback(1)
    assert databases.anchors() == []
