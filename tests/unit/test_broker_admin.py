"""The operations on the databases, as operators and their programs ask for them."""

import base64

import pytest

from tests.fixtures import certs
from tlspool_broker import admin
from tlspool_broker.databases import Databases
from tlspool_common.errors import Code, PoolError

URI = "pkcs11:object=web"


def b64(*ders):
    return base64.b64encode(b"".join(ders)).decode()


@pytest.fixture
def ask(tmp_path, no_leaks):
    databases = Databases(tmp_path / "db")

    def run(cmd, *args, **fields):
        return admin.handle(databases, {"cmd": cmd, **({"args": list(args)} if args else {}), **fields})

    yield run
    databases.close()


@pytest.fixture
def filled(ask):
    chain = b64(certs.leaf().der, certs.intermediate().der)
    ask("localid.set", id="Example.com", flags="x509,client,server", records=[{"uri": URI, "chain": [chain]}])
    ask("disclose.set", selector="@.example.org", ids=["example.com"])
    ask("trust.set", flags=["x509", "client"], valexp="1", data=b64(certs.root().der))
    return ask


def test_localid(filled):
    got = filled("localid.get", "EXAMPLE.com")
    [record] = got["records"]
    assert (got["id"], record["uri"]) == ("example.com", URI)
    assert set(record["flags"]) >= {"x509", "client", "server"}
    assert [one["der"] for one in record["chain"]] == [b64(certs.leaf().der), b64(certs.intermediate().der)]
    assert [one["id"] for one in filled("localid.list")["identities"]] == ["example.com"]
    gone = filled("localid.del", id="example.com")
    assert gone["removed"] == 1
    assert "still discloses" in gone["warnings"][0]
    with pytest.raises(PoolError) as caught:
        filled("localid.get", id="example.com")
    assert caught.value.code is Code.LOCALID_UNKNOWN


def test_warnings_of_certificates(ask):
    answer = ask(
        "localid.set", id="other.example", flags="x509,server", records=[{"uri": URI, "chain": [b64(certs.leaf().der)]}]
    )
    assert "does not name other.example" in answer["warnings"][0]


def test_disclose(filled):
    got = filled("disclose.get", "john@a.example.org")
    assert got["selector"] == "@.example.org"
    assert got["ids"] == ["example.com"]
    assert [step["present"] for step in got["walk"]] == [False] * (len(got["walk"]) - 1) + [True]
    assert filled("disclose.list")["selectors"] == [
        {"selector": "@.example.org", "ids": ["example.com"], "malformed": []}
    ]
    assert filled("disclose.del", "@.example.org")["removed"] == 1
    assert filled("disclose.del", "@.example.org")["warnings"]
    assert filled("disclose.get", "john@a.example.org")["ids"] == []
    with pytest.raises(PoolError):
        filled("disclose.set", selector=".", ids=["nobody.example"])


def test_trust(filled):
    key = certs.root().key_identifier.hex()
    [entry] = filled("trust.list")["keys"]
    assert entry["key"] == key
    assert "Test root" in entry["records"][0]["subject"]
    assert filled("trust.get", key)["records"][0]["data"] == b64(certs.root().der)
    assert filled("trust.get", data=b64(certs.root().der))["key"] == key
    assert filled("trust.del", key, "x509,client")["removed"] == 1
    assert filled("trust.list")["keys"] == []
    assert filled("trust.del", key)["warnings"]


def test_every_answer_has_the_generation(filled):
    assert filled("localid.list")["generation"] == 4
    assert filled("localid.del", "example.com")["generation"] == 5
    assert filled("disclose.del", "nothing.example")["generation"] == 5  # it changed nothing


@pytest.mark.parametrize(
    ("cmd", "fields", "code"),
    [
        ("make.coffee", {}, 102),
        (None, {}, 102),
        ("localid.get", {}, 101),
        ("localid.get", {"id": 7}, 101),
        ("localid.get", {"id": "a..b"}, 113),
        ("localid.get", {"id": "\ud800"}, None),
        ("localid.set", {"id": "a.example", "flags": "x509,server", "records": []}, 101),
        ("localid.set", {"id": "a.example", "flags": "x509,server", "records": "x"}, 101),
        ("localid.set", {"id": "a.example", "flags": "x509,server", "records": ["x"]}, 101),
        ("localid.set", {"id": "a.example", "flags": "x509,server", "records": [{"uri": URI, "chain": ["?"]}]}, 101),
        ("localid.set", {"id": "a.example", "flags": "x509,server", "records": [{"uri": URI, "chain": [5]}]}, 101),
        ("localid.set", {"id": "a.example", "flags": "colour", "records": [{"uri": URI}]}, None),
        ("localid.set", {"id": "a.example", "flags": [1], "records": [{"uri": URI}]}, 101),
        ("disclose.set", {"selector": ".", "ids": []}, 101),
        ("disclose.set", {"selector": ".", "ids": [7]}, 101),
        ("trust.set", {"flags": "x509,client", "valexp": "1"}, 101),
        ("trust.set", {"flags": "x509,client", "valexp": "1", "data": []}, 101),
        ("trust.set", {"flags": "x509,client", "valexp": "1", "data": "////"}, None),
        ("trust.get", {"key": "xyz"}, 101),
        ("trust.get", {"key": "abc"}, 101),
    ],
)
def test_requests_that_are_wrong(ask, cmd, fields, code):
    with pytest.raises(PoolError) as caught:
        ask(cmd, **fields)
    assert code is None or caught.value.code == code
    assert ask("localid.list")["generation"] == 1
