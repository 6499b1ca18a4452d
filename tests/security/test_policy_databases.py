"""Databases that other tools, or a damaged disk, have written; and operators' programs that are careless."""

import asyncio
import base64
import contextlib
import json
import os
import random

import pytest

from tests.fixtures import legacy_databases
from tests.fixtures.authority import Authority
from tlspool_broker import admin
from tlspool_broker.databases import Databases
from tlspool_broker.offline import open as offline
from tlspool_common import control
from tlspool_common.control import render
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import Side
from tlspool_common.settings import parse_untrusted as settings_of

PIN = "99887766"
ROOT = Authority("Root")
LEAF = ROOT.leaf("leaf")

KEYS = [b"a.example", b"u@a.example", b"@.", bytes(20), b"k" * 32, b"\xff\xfe", b"host", b"localid:a.example"]
SEEDS = {
    "localid.db": [
        b"\0\0\x03\x01pkcs11:x\0" + LEAF.der,
        b"\0\0\x03\x05TR&\0",
        b"\0\0\x23\x01pkcs11:x\0" + LEAF.der + ROOT.der,
        b"\0\0\x13\x01" + LEAF.der,
    ],
    "trust.db": [
        b"\0\0\x03\x011\0" + ROOT.der,
        b"\0\0\x0b\x011\0" + bytes(8) + b"r.example\0",
        b"\0\0\x07\x011\0" + bytes(8) + b"\x02\x01\x05",
        b"\0\0\x03\x01" + b"T" * 200 + b"\0" + ROOT.der,
        b"\0\2\x0b\x011\0" + b"\xff" * 8 + b"\xc3\xa9.example\0",
    ],
    "disclose.db": [b"a.example", b"\0TR&", b"\0", b"\0" + b"T" * 500, b"\x1b[31m"],
    "policy.db": [b"modern", b"x" * 100, b"nosuch"],
    "history.db": [b"", bytes(40), b"\1" + b"\xff" * 60],
}
READS = ["localid.list", "disclose.list", "trust.list", "trust.pins", "policy.list", "history"]
REQUESTS = [
    *({"cmd": name} for name in READS),
    {"cmd": "localid.get", "id": "a.example"},
    {"cmd": "disclose.get", "selector": "a.example"},
    {"cmd": "trust.get", "key": "00" * 20},
    {"cmd": "localid.set", "id": "a.example", "flags": "valexp,server", "records": [{"uri": "T"}]},
    {"cmd": "trust.pin", "remote": "r.example", "sha256": "6b" * 32, "alone": True},
    {"cmd": "trust.revoke", "key": "00" * 20, "serials": ["05"]},
    {"cmd": "diff", "a": 1},
    {"cmd": "rollback", "to": 1},
]


def mutate(chance, data):
    data = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0 if at < len(data):
                data[at] = chance.randrange(256)
            case 1:
                data[at:at] = chance.randbytes(chance.randrange(6))
            case 2:
                del data[at : at + chance.randrange(8)]
            case _:
                data[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, b"\0", b"\x30\x84\xff\xff\xff\xff"])
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_in_the_files(tmp_path, seed):
    """Only PoolError, answers that can be written, and no certificate is trusted that was not."""
    chance = random.Random(seed)
    for file, seeds in SEEDS.items():
        entries = [(chance.choice(KEYS), mutate(chance, chance.choice(seeds))) for _ in range(chance.randrange(1, 8))]
        legacy_databases.write(tmp_path, file, entries)
    reports = []
    databases = Databases(tmp_path, report=reports.append)
    try:
        for name in ("a.example", "u@a.example", "r.example"):
            identity = parse_untrusted(name)
            for side in Side:
                for ask in (databases.credentials, databases.expression):
                    with contextlib.suppress(PoolError):
                        ask(identity, side)
                databases.judged_identities(side)
                databases.needs_judging(side)
            with contextlib.suppress(PoolError):
                databases.disclosure_expression(identity)
            databases.pins(name)
            databases.crypto_policy("smtp", name)
        assert all(anchor.der in (ROOT.der, LEAF.der) or anchor.sha256 for anchor in databases.anchors())
        for request in REQUESTS:
            with contextlib.suppress(PoolError):
                render(admin.handle(databases, request), for_people=False)
        with contextlib.suppress(PoolError):
            databases.pin_add("r.example", b"k" * 32, "", "", Side.CLIENT)
        assert all(isinstance(error, PoolError) for error in reports)
    finally:
        databases.close()


@pytest.mark.parametrize("value", [b"", b"\xff" * 8, bytes(8), bytes(7), b"\0" * 7 + b"\5" + b"x"])
def test_a_generation_that_is_none(tmp_path, value):
    """Counting again from 1 would give the numbers of old states to new ones, and a huge one cannot be counted on."""
    legacy_databases.write(tmp_path, "generation.db", [(b"generation", value)])
    with pytest.raises(PoolError) as caught:
        Databases(tmp_path)
    assert caught.value.code is Code.DATABASE
    assert "generation.db is damaged" in caught.value.detail


@pytest.mark.parametrize("text", ["é", "T\0", "\u202e", "T" * 200, " ", "T\n", "\ud800"])
def test_expressions_that_are_none(tmp_path, text):
    databases = Databases(tmp_path)
    try:
        admin.handle(
            databases,
            {"cmd": "localid.set", "id": "a.example", "flags": "valexp,client", "records": [{"uri": "1"}]},
        )
        before = databases.generation
        for request in (
            {"cmd": "disclose.set", "selector": ".", "ids": ["a.example"], "expression": text},
            {"cmd": "localid.set", "id": "a.example", "flags": "valexp,client", "records": [{"uri": text}]},
            {"cmd": "trust.set", "flags": "x509,client", "valexp": text, "data": "MAA="},
        ):
            with pytest.raises(PoolError) as caught:
                admin.handle(databases, request)
            assert caught.value.code in (Code.RECORD_MALFORMED, Code.FIELD_MALFORMED)
            render(control.refusal(caught.value), for_people=False)
        assert databases.generation == before
    finally:
        databases.close()


def test_a_pin_of_a_token_is_shown_by_no_command(tmp_path):
    """Other tools let a PIN into a URI; no list, no history, no difference, and nothing malformed shows it."""
    uri = f"pkcs11:token=t;object=o?pin-value={PIN}&module-name=m".encode()
    values = [b"\0\0\x03\x01" + uri + b"\0" + LEAF.der, b"\0\0\x03\x01" + uri]
    legacy_databases.write(tmp_path, "localid.db", [(b"a.example", value) for value in values])
    reports = []
    databases = Databases(tmp_path, report=reports.append)
    try:
        requests = [
            {"cmd": "localid.get", "id": "a.example"},
            {"cmd": "localid.list"},
            {"cmd": "localid.del", "id": "a.example", "flags": "x509,client"},
            {"cmd": "localid.set", "id": "b.example", "flags": "x509,client", "records": [{"uri": uri.decode()}]},
            {"cmd": "history"},
            {"cmd": "history.show", "generation": 2},
            {"cmd": "diff", "a": 1},
            {"cmd": "rollback", "to": 1},
            {"cmd": "diff", "a": 2},
        ]
        said = []
        for request in requests:
            try:
                said.append(json.dumps(admin.handle(databases, request)))
            except PoolError as error:
                said.append(str(error))
        with contextlib.suppress(PoolError):
            databases.credentials(parse_untrusted("a.example"), Side.CLIENT)
        assert databases.generation == 3
        assert not [text for text in [*said, *map(str, reports)] if PIN in text]
        assert any("token=t" in text for text in said)
    finally:
        databases.close()


def test_nobody_says_for_himself_who_he_is(tmp_path):
    """The kernel's word for the user is kept beside the name that a program claims."""
    asked = []

    async def conversation():
        def handler(request):
            asked.append(request)
            return {"uid": request[control.PEER_UID]}

        server = await control.serve(tmp_path / "s", handler)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(json.dumps({"cmd": "x", control.PEER_UID: 0, "author": "root", "uid": 0}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        server.close()
        return answer

    assert asyncio.run(conversation())["uid"] == os.getuid()
    assert asked[0]["author"] == "root"
    databases = Databases(tmp_path / "db")
    try:
        request = {"cmd": "policy.set", "key": "host", "policy": "modern", "author": "root\x1b[31m\n", "uid": 0}
        work, _ = admin.prepare(request)
        admin.apply(databases, request, work, uid=4711, durable=True)
        [change] = databases.history(2, 2)
        assert (change.by.uid, change.by.author) == (4711, "root[31m")
    finally:
        databases.close()


def test_two_that_have_looked_at_the_same_state(tmp_path):
    databases = Databases(tmp_path)
    try:
        for policy, code in (("modern", None), ("intermediate", Code.GENERATION_OTHER)):
            request = {"cmd": "policy.set", "key": "host", "policy": policy, "if_generation": 1}
            if code is None:
                admin.handle(databases, request)
                continue
            with pytest.raises(PoolError) as caught:
                admin.handle(databases, request)
            assert caught.value.code is code
        assert databases.crypto_policy("", "") == "modern"
    finally:
        databases.close()


def _settings(directory):
    return settings_of(f"dbenv_dir {directory}\n")


def test_no_two_write_at_a_time(tmp_path):
    with offline(_settings(tmp_path / "db")), pytest.raises(PoolError) as caught, offline(_settings(tmp_path / "db")):
        pass
    assert caught.value.code is Code.DATABASES_IN_USE


def test_a_link_in_the_place_of_the_directory_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PoolError) as caught, offline(_settings(tmp_path / "db")):
        pass
    assert caught.value.code is Code.SETTING_INVALID
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_rollback_says_what_it_trusts_again(tmp_path):
    databases = Databases(tmp_path)
    try:

        def do(cmd, **fields):
            return admin.handle(databases, {"cmd": cmd, **fields})

        der = base64.b64encode(ROOT.der).decode()
        [key] = do("trust.set", flags="x509,client", valexp="1", data=der)["keys"]
        then = databases.generation
        do("trust.revoke", key=key, serials=["05", "06"])
        do("trust.del", key=key, flags="x509,client")
        warnings = do("rollback", to=then)["warnings"]
        assert warnings == [
            f"the anchor {key} is trusted as it was before",
            f"2 certificates of issuer {key} are not known to be revoked any more",
        ]
        do("policy.set", key="host", policy="modern")
        assert "warnings" not in do("rollback", to=databases.generation - 1)
        assert do("rollback", to=then - 1).get("warnings", []) == []
    finally:
        databases.close()
