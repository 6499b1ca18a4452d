from __future__ import annotations

import hashlib
import shutil
import signal
import stat
import struct
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from tests.fixtures import certs, legacy_databases
from tests.fixtures.databases import Databases
from tlspool_broker import records
from tlspool_broker.credentials import Anchor, Credential
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, parse_selector_untrusted, parse_untrusted
from tlspool_common.messages import KeyKind, Side
from tlspool_common.settings import parse_untrusted as parse_settings

X509_BOTH = records.X509 | records.CLIENT | records.SERVER
EXAMPLE = parse_untrusted("example.com")
URI = "pkcs11:token=T;object=o1"


def selector(text: str) -> Donai:
    return parse_selector_untrusted(text)


def flagged(flags: int, rest: bytes) -> bytes:
    return struct.pack("!I", flags) + rest


def anchors_of(databases) -> set[tuple[int, bytes, str]]:
    found = databases.anchors()
    assert len({(one.sha256, one.valexp) for one in found}) == len(found)
    return {(one.for_sides, one.der, one.valexp) for one in found}


@pytest.fixture
def reports():
    return []


@pytest.fixture
def databases(tmp_path, reports):
    made = Databases(tmp_path / "db", report=reports.append)
    yield made
    made.close()


def refused(code: Code, function, *arguments) -> str:
    with pytest.raises(PoolError) as caught:
        function(*arguments)
    assert caught.value.code is code
    return caught.value.detail


# --- localid ------------------------------------------------------------------------------------------


def test_what_is_set_is_there_and_is_the_format(databases, tmp_path) -> None:
    chain = [certs.leaf().der, certs.intermediate().der]
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, chain)])
    databases.localid_set(parse_untrusted("john@example.com"), X509_BOTH, [(URI, chain[:1])])
    [record] = databases.localid_get(EXAMPLE)
    assert record.flags == 0x2301
    assert record.chain() == tuple(chain)
    databases.close()
    expected = b"\x00\x00\x23\x01" + URI.encode() + b"\0" + b"".join(chain)
    assert legacy_databases.read(tmp_path / "db", "localid.db", b"example.com") == [expected]
    expected = b"\x00\x00\x03\x01" + URI.encode() + b"\0" + chain[0]
    assert legacy_databases.read(tmp_path / "db", "localid.db", b"john@example.com") == [expected]


def test_files_are_for_the_broker_alone(databases, tmp_path) -> None:
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700
    ours = ("policy.db", "history.db", "generation.db", "log.0000000001")
    for name in ("localid.db", "disclose.db", "trust.db", *ours):
        assert stat.S_IMODE((tmp_path / "db" / name).stat().st_mode) == 0o600, name


def test_replacement_keeps_other_roles_and_types(databases) -> None:
    old, new = [(URI, [certs.leaf().der])], [("pkcs11:object=o2", [certs.leaf(kind="rsa").der])]
    databases.localid_set(EXAMPLE, X509_BOTH, old)
    databases.localid_set(EXAMPLE, records.VALEXP | records.SERVER, [("1", [])])
    databases.localid_set(EXAMPLE, records.X509 | records.SERVER, new)
    assert [(record.flags, record.uri) for record in databases.localid_get(EXAMPLE)] == [
        (0x101, URI),
        (0x205, "1"),
        (0x201, "pkcs11:object=o2"),
    ]
    databases.localid_set(EXAMPLE, X509_BOTH, old)
    assert [(record.flags, record.uri) for record in databases.localid_get(EXAMPLE)] == [(0x205, "1"), (0x301, URI)]


def test_deletion_by_role_and_whole(databases) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.localid_set(EXAMPLE, records.VALEXP | records.SERVER, [("1", [])])
    assert databases.localid_del(EXAMPLE, records.X509 | records.CLIENT) == 0, "the server role is left"
    assert [record.flags for record in databases.localid_get(EXAMPLE)] == [0x201, 0x205]
    assert databases.localid_del(EXAMPLE, records.X509) == 1
    assert [record.flags for record in databases.localid_get(EXAMPLE)] == [0x205]
    assert databases.localid_del(EXAMPLE) == 1
    assert databases.localid_del(EXAMPLE) == 0
    assert databases.localid_get(EXAMPLE) == []
    assert databases.localid_list() == []


@pytest.mark.parametrize(
    ("flags", "uri", "chain", "code", "why"),
    [
        (records.X509, URI, [certs.leaf().der], Code.RECORD_MALFORMED, "client, server"),
        (X509_BOTH, "file:x", [certs.leaf().der], Code.RECORD_MALFORMED, "pkcs11:"),
        (X509_BOTH, URI + "?pin-value=1234", [certs.leaf().der], Code.RECORD_MALFORMED, "PIN"),
        (X509_BOTH, URI, [], Code.RECORD_MALFORMED, "certificates"),
        (X509_BOTH, URI, [b"garbage"], Code.RECORD_MALFORMED, "certificate 1"),
        (X509_BOTH, URI, [certs.intermediate().der, certs.leaf().der], Code.RECORD_MALFORMED, "not issued"),
        (X509_BOTH, URI, [certs.leaf(kind="p521").der], Code.RECORD_MALFORMED, "none of RSA"),
        (X509_BOTH | records.LOCAL_NO_PKCS11, URI, [certs.leaf().der], Code.NOT_SUPPORTED_YET, "noP11"),
        (records.PGP | records.CLIENT, URI, [], Code.NOT_SUPPORTED_YET, "pgp"),
        (records.VALEXP | records.CLIENT, "TI", [], Code.RECORD_MALFORMED, "2 values are left"),
        (records.VALEXP | records.CLIENT, "TX&", [], Code.RECORD_MALFORMED, "X"),
        (records.VALEXP | records.CLIENT, "1", [certs.leaf().der], Code.RECORD_MALFORMED, "no certificate"),
    ],
)
def test_what_is_not_written(databases, flags, uri, chain, code, why) -> None:
    assert why in refused(code, databases.localid_set, EXAMPLE, flags, [(URI, [certs.leaf().der]), (uri, chain)][1:])
    assert databases.localid_list() == []
    assert databases.generation == 1


def test_one_expression_for_a_role(databases) -> None:
    entries = [("1", []), ("0", [])]
    refused(Code.RECORD_MALFORMED, databases.localid_set, EXAMPLE, records.VALEXP | records.CLIENT, entries)


def test_long_chains_and_many_records_fit(databases) -> None:
    chain = [certs.make("big.example", pad_b=14_000).der]
    root = certs.make("Long root", ca=True, number=50, pad_b=12_000)
    chain = [root.issue("big.example", pad_b=12_000).der, root.der]
    entries = [(f"pkcs11:object=o{number}", chain) for number in range(10)]
    databases.localid_set(EXAMPLE, X509_BOTH, entries)
    assert [(record.uri, list(record.chain())) for record in databases.localid_get(EXAMPLE)] == entries
    for number in range(50):
        databases.localid_set(parse_untrusted(f"n{number}.example"), X509_BOTH, entries[:1])
    assert len(databases.localid_list()) == 51


# --- credentials --------------------------------------------------------------------------------------


def test_credentials_first_of_each_kind_wins(databases) -> None:
    first, second, rsa = certs.leaf(), certs.make("example.com", number=3), certs.leaf(kind="rsa")
    databases.localid_set(
        EXAMPLE,
        X509_BOTH,
        [
            ("pkcs11:object=1", [first.der, certs.intermediate().der]),
            ("pkcs11:object=2", [second.der]),
            ("pkcs11:object=3", [rsa.der]),
        ],
    )
    expected = [
        Credential(
            "pkcs11:object=1",
            (first.der, certs.intermediate().der),
            KeyKind.EC_P256,
            hashlib.sha256(certs.spki(first.private)).digest(),
        ),
        Credential("pkcs11:object=3", (rsa.der,), KeyKind.RSA, hashlib.sha256(certs.spki(rsa.private)).digest()),
    ]
    assert databases.credentials(EXAMPLE, Side.SERVER) == expected
    assert databases.credentials(EXAMPLE, Side.CLIENT) == expected


def test_credentials_are_of_the_role_and_follow_changes(databases) -> None:
    databases.localid_set(EXAMPLE, records.X509 | records.SERVER, [(URI, [certs.leaf().der])])
    assert databases.credentials(EXAMPLE, Side.CLIENT) == []
    assert [one.uri for one in databases.credentials(EXAMPLE, Side.SERVER)] == [URI]
    databases.localid_set(EXAMPLE, records.X509 | records.SERVER, [("pkcs11:object=new", [certs.leaf().der])])
    assert [one.uri for one in databases.credentials(EXAMPLE, Side.SERVER)] == ["pkcs11:object=new"]
    databases.localid_del(EXAMPLE)
    assert databases.credentials(EXAMPLE, Side.SERVER) == []
    assert databases.credentials(parse_untrusted("www.example.com"), Side.SERVER) == [], "exact match only"


def test_an_expression_restricts_an_identity(databases) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.localid_set(EXAMPLE, records.VALEXP | records.SERVER, [("0", [])])
    databases.localid_set(EXAMPLE, records.VALEXP | records.CLIENT, [("1", [])])
    assert "never" in refused(Code.LOCALID_UNKNOWN, databases.credentials, EXAMPLE, Side.SERVER)
    assert len(databases.credentials(EXAMPLE, Side.CLIENT)) == 1


# --- what earlier pools wrote -------------------------------------------------------------------------


def test_files_of_an_earlier_pool(tmp_path, reports) -> None:
    """The contents of the test databases that come with the original pool, and its defects."""
    home = tmp_path / "env"
    home.mkdir()
    leaf, middle, root = certs.leaf().der, certs.intermediate().der, certs.root().der
    legacy_databases.write(
        home,
        "../localid.db",
        [
            (b"testcli@tlspool.arpa2.lab", flagged(0x102, b"pkcs11:pgp\0PGP")),
            (b"testcli@tlspool.arpa2.lab", flagged(0x101, b"pkcs11:token=T;object=cli\0" + leaf)),
            (b"testcli@tlspool.arpa2.lab", flagged(0x104, b"pkcs11:krb\0")),
            (b"testcli@tlspool.arpa2.lab", flagged(0x105, b"1\0")),
            (b"tlspool.arpa2.lab", flagged(0x2201, b"pkcs11:token=T;object=o3\0" + leaf + middle)),
            (b"tlspool.arpa2.lab", flagged(0x1101, leaf)),
            (b"needs.arpa2.lab", flagged(0x6101, b"pkcs11:token=T\0" + leaf)),
        ],
    )
    legacy_databases.write(
        home,
        "../disclose.db",
        [
            (b"@.arpa2.lab", b"testcli@tlspool.arpa2.lab"),
            (b"@.arpa2.lab", b"testsrv@tlspool.arpa2.lab"),
            (b".", b"tlspool.arpa2.lab"),
        ],
    )
    key = certs.root().key_identifier
    legacy_databases.write(
        home,
        "../trust.db",
        [
            (key, flagged(0x301, b"1\0" + root)),
            (key, flagged(0x401, b"1\0" + struct.pack("!II", 1, 2))),
            (hashlib.sha256(leaf).digest(), flagged(0x801, b"1\0")),
            (b"\xaa\xbb\xcc\xdd\xee\xff", flagged(0x10101, b"1\0" + middle)),
        ],
    )
    databases = Databases(home, "../localid.db", "../disclose.db", "../trust.db", reports.append)
    client = parse_untrusted("testcli@tlspool.arpa2.lab")
    server = parse_untrusted("tlspool.arpa2.lab")
    try:
        assert [record.type for record in databases.localid_get(client)] == [2, 1, 4, 5]
        assert [one.uri for one in databases.credentials(client, Side.CLIENT)] == ["pkcs11:token=T;object=cli"]
        assert databases.credentials(client, Side.SERVER) == []
        assert [one.chain for one in databases.credentials(server, Side.SERVER)] == [(leaf, middle)]
        assert databases.credentials(server, Side.CLIENT) == [], "a certificate without a key signs nothing"
        assert len(databases.credentials(parse_untrusted("needs.arpa2.lab"), Side.CLIENT)) == 1
        assert databases.disclosed(parse_untrusted("john@mail.arpa2.lab")) == [str(client)], "testsrv is not there"
        assert databases.disclosed(parse_untrusted("mail.arpa2.lab")) == ["tlspool.arpa2.lab"]
        assert anchors_of(databases) == {(3, root, "1"), (1, middle, "1")}
        assert databases.generation == 1
        assert reports == []

        databases.localid_set(client, records.X509 | records.CLIENT, [(URI, [leaf])])
        assert databases.generation == 2
    finally:
        databases.close()
    assert legacy_databases.read(home, "../localid.db", str(client).encode()) == [
        flagged(0x102, b"pkcs11:pgp\0PGP"),
        flagged(0x104, b"pkcs11:krb\0"),
        flagged(0x105, b"1\0"),
        flagged(0x101, URI.encode() + b"\0" + leaf),
    ]


def test_files_without_their_environment_are_adopted(tmp_path) -> None:
    """Pages written under another log name positions that the new one does not have."""
    old = tmp_path / "old"
    old.mkdir()
    value = flagged(0x301, URI.encode() + b"\0" + certs.leaf().der)
    legacy_databases.write(old, "localid.db", [(b"n%d.example" % number, value) for number in range(300)])
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(old / "localid.db", new)
    databases = Databases(new)
    for number in range(300):
        databases.localid_del(parse_untrusted(f"n{number}.example"))
    assert databases.localid_list() == []
    databases.close()


def test_files_beside_a_foreign_log_are_refused_with_advice(tmp_path) -> None:
    Databases(tmp_path / "new").close()
    old = tmp_path / "old"
    old.mkdir()
    legacy_databases.write(old, "localid.db", [(b"n%d.example" % number, bytes(3000)) for number in range(100)])
    shutil.copy(old / "localid.db", tmp_path / "new")
    assert "log files" in refused(Code.DATABASE, Databases, tmp_path / "new")


def test_a_file_that_is_no_database(tmp_path) -> None:
    (tmp_path / "localid.db").write_bytes(b"not a database" * 1000)
    refused(Code.DATABASE, Databases, tmp_path)


def test_a_directory_that_cannot_be(tmp_path) -> None:
    (tmp_path / "file").touch()
    assert "dbenv_dir" in refused(Code.SETTING_INVALID, Databases, tmp_path / "file" / "db")


# --- malformed records --------------------------------------------------------------------------------


def test_malformed_records_are_named_and_harm_no_other(tmp_path, reports) -> None:
    leaf = certs.leaf().der
    good = flagged(0x201, b"pkcs11:object=good\0" + leaf)
    bad = {
        "short": b"\0\0",
        "nul": flagged(0x201, b"pkcs11:object=x"),
        "der": flagged(0x201, b"pkcs11:object=x\0garbage"),
        "cut": flagged(0x2201, b"pkcs11:object=x\0" + leaf + leaf[:-9]),
        "unmarked": flagged(0x201, b"pkcs11:object=x\0" + leaf + leaf),
        "empty": flagged(0x201, b"pkcs11:object=x\0"),
        "pin": flagged(0x201, b"pkcs11:object=x?pin-value=1234\0" + leaf),
        "uri": flagged(0x201, b"object=x\0" + leaf),
        "long": flagged(0x201, b"pkcs11:object=" + b"x" * 600 + b"\0" + leaf),
        "kind": flagged(0x201, b"pkcs11:object=x\0" + certs.leaf(kind="p521").der),
    }
    legacy_databases.write(
        tmp_path,
        "localid.db",
        [record for name, value in bad.items() for record in ((name.encode(), value), (b"both", value))]
        + [(b"both", good)],
    )
    databases = Databases(tmp_path, report=reports.append)
    for name in bad:
        detail = refused(Code.RECORD_MALFORMED, databases.credentials, parse_untrusted(name), Side.SERVER)
        assert detail.startswith(f"localid {name}: ")
        assert "1234" not in detail
        assert reports[-1].detail == detail
        if name not in {"short", "nul"}:  # what has no part of its own wrong is listed
            assert len(databases.localid_get(parse_untrusted(name))) == 1
    reports.clear()
    both = parse_untrusted("both")
    assert [one.uri for one in databases.credentials(both, Side.SERVER)] == ["pkcs11:object=good"]
    assert len(reports) == len(bad)
    assert databases.credentials(both, Side.SERVER)
    assert len(reports) == len(bad), "said once"

    databases.localid_set(parse_untrusted("nul"), records.X509 | records.SERVER, [(URI, [leaf])])
    databases.localid_set(parse_untrusted("short"), records.X509 | records.SERVER, [(URI, [leaf])])
    for name in ("nul", "short"):
        assert databases.localid_entry(parse_untrusted(name)).bad == (), "writing the record again repairs it"
    databases.close()


def test_malformed_anchors_and_disclosures(tmp_path, reports) -> None:
    root, middle = certs.root().der, certs.intermediate().der
    x, z = certs.make("x", ca=True).der, certs.make("z", ca=True).der
    legacy_databases.write(
        tmp_path,
        "trust.db",
        [
            (b"\x01", b"\0\0\3\1"),
            (b"\x01", flagged(0x301, b"1\0garbage")),
            (b"\x01", flagged(0x101, b"1\0" + root)),
            (b"\x02", flagged(0x301, b"1\0" + middle)),
            (b"\x03", flagged(0x301, b"TI&\0" + x)),
            (b"\x03", flagged(0x301, b"TI\0" + x)),
            (b"\x04", flagged(0x001, b"1\0" + certs.make("y", ca=True).der)),
            (b"\x05", flagged(0x301, b"0\0" + z)),
            (b"\x06", flagged(0x201, b"1\0" + root)),
        ],
    )
    legacy_databases.write(tmp_path, "disclose.db", [(b".", b"\0condition"), (b".", b"\xff"), (b".", b"example.com")])
    legacy_databases.write(tmp_path, "localid.db", [(b"example.com", flagged(0x101, b"1\0"))])
    databases = Databases(tmp_path, report=reports.append)
    assert anchors_of(databases) == {
        (3, root, "1"),  # for clients under one key and for servers under another
        (3, x, "TI&"),
        (3, z, "0"),
    }
    assert len(databases.anchors()) == 3
    assert [(error.code, error.detail.partition(":")[0]) for error in reports] == [
        (Code.RECORD_MALFORMED, "trust 01"),
        (Code.RECORD_MALFORMED, "trust 01"),
        (Code.RECORD_MALFORMED, "trust 02"),
        (Code.RECORD_MALFORMED, "trust 03"),
    ]
    reports.clear()
    assert databases.disclosed(parse_untrusted("anything.example")) == ["example.com"]
    assert [error.detail.partition(":")[0] for error in reports] == ["disclose ."]
    # What may have been meant to keep somebody out keeps everybody out.
    refused(Code.RECORD_MALFORMED, databases.disclosure_expression, parse_untrusted("anything.example"))
    databases.close()


# --- disclose -----------------------------------------------------------------------------------------


def test_the_walk_stops_at_the_first_hit(databases) -> None:
    a, b, c = (parse_untrusted(text) for text in ("a.example", "b.example", "john@c.example"))
    for donai in (a, b, c):
        databases.localid_set(donai, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.disclose_set(selector("@.example"), [c, a, c])
    databases.disclose_set(selector("."), [b])
    databases.disclose_set(selector("remote.example"), [a])
    assert databases.disclosure(parse_untrusted("mary@mail.example")) == ("@.example", ["john@c.example", "a.example"])
    assert databases.disclosure(parse_untrusted("remote.example")) == ("remote.example", ["a.example"])
    assert databases.disclosure(parse_untrusted("www.remote.example")) == (".", ["b.example"])
    assert databases.disclosed(parse_untrusted("mary@mail.org")) == []
    databases.localid_del(a)
    assert databases.disclosure(parse_untrusted("remote.example")) == ("remote.example", []), "no more general one"
    assert databases.disclose_get(selector("remote.example")) == ["a.example"]
    assert [entry.key for entry in databases.disclose_list()] == [b".", b"@.example", b"remote.example"]
    assert databases.disclose_del(selector("@.example")) == 2
    assert databases.disclose_del(selector("@.example")) == 0


@pytest.mark.parametrize(
    ("localid", "first", "move", "ids"),
    [
        ("c.example", False, False, ["a.example", "b.example", "c.example"]),
        ("c.example", True, False, ["c.example", "a.example", "b.example"]),
        ("b.example", True, False, None),
        ("a.example", False, False, None),
        ("b.example", True, True, ["b.example", "a.example"]),
        ("a.example", False, True, ["b.example", "a.example"]),
        ("a.example", True, True, None),
    ],
)
def test_one_more_is_disclosed(databases, localid, first, move, ids) -> None:
    for name in ("a.example", "b.example", "c.example"):
        databases.localid_set(parse_untrusted(name), X509_BOTH, [(URI, [certs.leaf().der])])
    databases.disclose_set(selector("@.org"), [parse_untrusted("a.example"), parse_untrusted("b.example")])
    generation = databases.generation
    changed = databases.disclose_add(selector("@.org"), parse_untrusted(localid), first=first, move=move)
    assert changed is (ids is not None)
    assert databases.disclose_get(selector("@.org")) == (ids or ["a.example", "b.example"])
    assert databases.generation == generation + changed


def test_one_more_is_the_first_of_its_selector_or_no_identity_of_ours(databases) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    assert databases.disclose_add(selector("john@."), EXAMPLE, first=False, move=True)
    assert databases.disclose_get(selector("john@.")) == [str(EXAMPLE)]
    unknown = parse_untrusted("www.example.com")
    add = partial(databases.disclose_add, first=True, move=False)
    assert refused(Code.LOCALID_UNKNOWN, add, selector("."), unknown) == str(unknown)


def test_only_known_identities_are_disclosed(databases) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    databases.disclose_set(selector("."), [EXAMPLE])
    generation = databases.generation
    unknown = parse_untrusted("www.example.com")
    assert refused(Code.LOCALID_UNKNOWN, databases.disclose_set, selector("."), [EXAMPLE, unknown]) == str(unknown)
    assert databases.disclose_get(selector(".")) == ["example.com"]
    assert databases.generation == generation


# --- trust --------------------------------------------------------------------------------------------


def test_anchors(databases, tmp_path) -> None:
    root, other = certs.root(), certs.make("Other root", ca=True, number=8)
    assert databases.trust_set(0x301, "1", [root.der, other.der]) == [root.key_identifier, other.key_identifier]
    assert anchors_of(databases) == {(3, root.der, "1"), (3, other.der, "1")}
    [found] = [one for one in databases.anchors() if one.der == root.der]
    assert found == Anchor(3, root.der, root.key_identifier, hashlib.sha256(root.der).digest(), "1", False)
    databases.trust_set(0x201, "0", [root.der])
    assert anchors_of(databases) == {(2, root.der, "0"), (1, root.der, "1"), (3, other.der, "1")}
    assert [(record.flags, record.valexp) for record in databases.trust_get(root.key_identifier)] == [
        (0x201, "0"),
        (0x101, "1"),
    ]
    assert databases.trust_del(root.key_identifier, 0x101) == 1
    assert anchors_of(databases) == {(2, root.der, "0"), (3, other.der, "1")}
    assert databases.trust_del(other.key_identifier) == databases.trust_del(root.key_identifier) == 1
    assert databases.anchors() == []
    databases.trust_set(0x301, "1", [root.der])
    databases.close()
    assert legacy_databases.read(tmp_path / "db", "trust.db", root.key_identifier) == [
        flagged(0x301, b"1\0" + root.der),
    ]


def test_pins_and_revocations_stay_when_anchors_change(tmp_path) -> None:
    key = certs.root().key_identifier
    pin, revocation = flagged(0x801, b"1\0"), flagged(0x401, b"1\0" + bytes(8))
    legacy_databases.write(tmp_path, "trust.db", [(key, pin), (key, revocation)])
    databases = Databases(tmp_path)
    databases.trust_set(0x301, "1", [certs.root().der])
    databases.trust_set(0x301, "1", [certs.root().der])
    databases.close()
    anchor = flagged(0x301, b"1\0" + certs.root().der)
    assert legacy_databases.read(tmp_path, "trust.db", key) == [anchor, pin, revocation]


def test_an_anchor_may_be_filed_under_another_key(databases) -> None:
    assert databases.trust_set(0x301, "1", [certs.root().der], key=b"\xaa") == [b"\xaa"]
    assert [entry.key for entry in databases.trust_list()] == [b"\xaa"]


@pytest.mark.parametrize(
    ("flags", "valexp", "der", "code"),
    [
        (0x001, "1", certs.root().der, Code.RECORD_MALFORMED),
        (0x301, "", certs.root().der, Code.RECORD_MALFORMED),
        (0x301, "TI", certs.root().der, Code.RECORD_MALFORMED),
        (0x301, "1", b"garbage", Code.RECORD_MALFORMED),
        (0x301, "1", certs.intermediate().der, Code.RECORD_MALFORMED),
        (0x401, "1", certs.root().der, Code.NOT_SUPPORTED_YET),
        (0x801, "1", certs.root().der, Code.NOT_SUPPORTED_YET),
        (0x302, "1", certs.root().der, Code.NOT_SUPPORTED_YET),
    ],
)
def test_what_is_not_trusted(databases, flags, valexp, der, code) -> None:
    refused(code, databases.trust_set, flags, valexp, [certs.root().der, der][1:])
    assert databases.trust_list() == []


def test_notroot_lets_a_chain_end_early(databases) -> None:
    databases.trust_set(0x1101, "1", [certs.intermediate().der])
    assert anchors_of(databases) == {(1, certs.intermediate().der, "1")}
    assert databases.anchors()[0].may_be_no_root


# --- generation, settings, recovery -------------------------------------------------------------------


def test_the_generation_counts_changes_and_survives(databases) -> None:
    assert (databases.generation, databases.trust_generation) == (1, 1)
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    assert (databases.generation, databases.trust_generation) == (2, 1)
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    assert databases.localid_del(parse_untrusted("nobody.example")) == 0
    assert (databases.generation, databases.trust_generation) == (2, 1), "nothing changed"
    databases.trust_set(0x301, "1", [certs.root().der])
    assert (databases.generation, databases.trust_generation) == (3, 3)
    databases.disclose_set(selector("."), [EXAMPLE])
    databases.close()
    assert (databases.generation, databases.trust_generation) == (4, 3), "and is open again"


def test_settings_name_the_files(tmp_path) -> None:
    settings = parse_settings(f"dbenv_dir {tmp_path}/env\ndb_localid ../here.db\ndb_trust {tmp_path}/there.db\n")
    Databases.from_settings(settings).close()
    assert {path.name for path in tmp_path.glob("**/*.db")} == {
        "here.db", "there.db", "disclose.db", "generation.db", "history.db", "policy.db",
    }  # fmt: skip


def test_nothing_leaks(tmp_path, no_leaks) -> None:
    databases = Databases(tmp_path)
    databases.trust_set(0x301, "1", [certs.root().der])
    databases.close()
    databases.close()


def python(code: str, *arguments: str, **options) -> subprocess.Popen:
    prelude = """
        import os, signal, sys
        from pathlib import Path
        from tests.fixtures.databases import Databases
        from tlspool_broker.environment import View
        from tlspool_common.identity import Donai
        databases = Databases(Path(sys.argv[1]))
        """
    program = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, **options)


def test_a_kill_loses_no_committed_change(tmp_path) -> None:
    """Each round kills a writer after some commits, most likely within the next one."""
    writer = """
        start = int(sys.argv[2])
        for number in range(start, start + 100000):
            databases.localid_set(Donai(None, f"n{number}"), 0x305, [("1", [])])
            os.write(1, b"%d\\n" % number)
        """
    last = 0
    for commits in (1, 40, 7, 90, 23):
        process = python(writer, str(tmp_path), str(last + 1))
        with process:
            for _ in range(commits):
                last = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        last = int(rest[-1]) if rest else last
        databases = Databases(tmp_path)
        found = {int(entry.key[1:]) for entry in databases.localid_list()}
        assert found >= set(range(1, last + 1)), "all that was acknowledged"
        assert found <= set(range(1, last + 2)), "and at most one more, that was not"
        assert databases.generation == len(found) + 1
        last = max(found)
        databases.close()


def test_a_kill_within_a_change_leaves_nothing_of_it(tmp_path) -> None:
    victim = """
        databases.localid_set(Donai(None, "before"), 0x305, [("1", [])])
        replace = View.replace
        def dying(view, name, key, values):
            replace(view, name, key, values)
            if name == "localid":
                os.kill(os.getpid(), signal.SIGKILL)
        View.replace = dying
        databases.localid_set(Donai(None, "within"), 0x305, [("1", [])])
        """
    with python(victim, str(tmp_path)) as process:
        assert process.wait(20) == -signal.SIGKILL
    databases = Databases(tmp_path)
    assert [entry.key for entry in databases.localid_list()] == [b"before"]
    assert databases.generation == 2
    databases.localid_set(parse_untrusted("within"), 0x305, [("1", [])])
    databases.close()


def test_the_living_reopen_when_another_process_recovered(databases, tmp_path) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    dying = """
        databases._environment.read(lambda view: os.kill(os.getpid(), signal.SIGKILL))
        """
    with python(dying, str(tmp_path / "db")) as process:
        assert process.wait(20) == -signal.SIGKILL
    recovering = """
        print(databases.generation)
        databases.close()
        """
    with python(recovering, str(tmp_path / "db")) as process:
        assert process.stdout.read() == b"2\n"
    broken = databases._environment._env
    assert databases.localid_get(EXAMPLE)[0].uri == URI, "read"
    assert databases._environment._env is not broken
    databases.localid_set(parse_untrusted("other.example"), X509_BOTH, [(URI, [certs.leaf().der])])
    assert databases.generation == 3, "and written"


def test_a_write_is_what_meets_the_recovery(databases, tmp_path) -> None:
    databases.localid_set(EXAMPLE, X509_BOTH, [(URI, [certs.leaf().der])])
    for code in ("databases._environment.read(lambda view: os.kill(os.getpid(), signal.SIGKILL))", "databases.close()"):
        with python(code, str(tmp_path / "db")) as process:
            process.wait(20)
    databases.localid_set(parse_untrusted("other.example"), X509_BOTH, [(URI, [certs.leaf().der])])
    assert [entry.key for entry in databases.localid_list()] == [b"example.com", b"other.example"]
    assert databases.generation == 3
