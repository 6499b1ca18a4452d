"""The operations on the databases, as operators and their programs ask for them."""

import base64
import datetime
import hashlib
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fixtures import certs
from tlspool_broker import admin
from tlspool_broker.admin import keys
from tlspool_broker.databases import Databases
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyAnswer

URI = "pkcs11:object=web"


def b64(*ders):
    return base64.b64encode(b"".join(ders)).decode()


@pytest.fixture
def ask(tmp_path, no_leaks):
    databases = Databases(tmp_path / "db")

    def run(cmd, *args, **fields):
        return admin.handle(databases, {"cmd": cmd, **({"args": list(args)} if args else {}), **fields})

    run.databases = databases
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


# --- selectors with expressions -----------------------------------------------------------------------


def test_expressions_of_selectors(filled):
    answer = filled("disclose.set", selector=".org", ids=["example.com"], expression="TR&")
    assert (answer["ids"], answer["expression"]) == (["example.com"], "TR&")
    assert filled("disclose.get", "a.org")["expression"] == "TR&"
    assert filled("disclose.set", selector=".org", ids=["example.com"])["expression"] == "TR&", "it stays"
    assert "expression" not in filled("disclose.set", selector=".org", ids=["example.com"], expression="")
    assert filled("disclose.set", selector=".org", expression="T")["ids"] == []
    for wrong in ({"expression": "TR"}, {"expression": 7, "ids": ["example.com"]}, {"expression": ""}):
        with pytest.raises(PoolError):
            filled("disclose.set", selector=".org", **wrong)


# --- pins ---------------------------------------------------------------------------------------------


def test_pins(ask):
    sha256 = hashlib.sha256(certs.leaf().der).hexdigest()
    answer = ask("trust.pin", remote="Mail.Example", data=b64(certs.leaf().der), until_s=4_000_000_000, before_s=60)
    assert (answer["remote"], answer["sha256"], answer["until_s"]) == ("mail.example", sha256, 4_000_000_000)
    ask("trust.pin", "john@mail.example", "11" * 32)
    expired = ask("trust.pin", remote="mail.example", sha256="22" * 32, until_s=1000, flags="client")
    assert "expired" in expired["warnings"][0]
    rows = {(row["remote"], row["sha256"][:4]): row["state"] for row in ask("trust.pins")["pins"]}
    assert rows == {
        ("mail.example", sha256[:4]): "in force",
        ("mail.example", "2222"): "expired",
        ("john@mail.example", "1111"): "in force",
    }
    assert [row["flags"] for row in ask("trust.pins", "john@mail.example")["pins"]] == [
        ["x509", "client", "server", "pinned"]
    ]
    assert ask("trust.unpin", "mail.example", "22" * 32)["removed"] == 1
    assert ask("trust.unpin", "mail.example", "22" * 32)["warnings"]
    assert ask("trust.pin", remote="mail.example", sha256="33" * 32, alone=True)["generation"] == 6
    assert len(ask("trust.pins", "mail.example")["pins"]) == 1
    assert ask("trust.unpin", "mail.example")["removed"] == 1
    assert "sha256" in ask("trust.get", "11" * 32)["records"][0]


def test_pins_and_revocations_as_other_tools_store_them(ask):
    key, pin = "44" * 32, base64.b64encode((4_000_000_000).to_bytes(4, "big")).decode()
    assert ask("trust.set", flags="x509,client,pinned", key=key, valexp="1", data=pin)["keys"] == [key]
    [row] = ask("trust.pins")["pins"]
    assert (row["remote"], row["until_s"]) == ("", 4_000_000_000)
    body = base64.b64encode(bytes.fromhex("6000000060100000020105")).decode()
    ask("trust.set", flags="x509,revoke", key="aabb", valexp="1", data=body)
    assert ask("trust.get", "aabb")["records"][0]["revoked"] == ["05"]
    for fields in (
        {"flags": "x509,pinned", "data": pin},
        {"flags": "x509,pinned", "key": "aabb", "data": pin},
        {"flags": "x509,revoke", "key": "aabb", "data": pin},
        {"flags": "pgp,pinned", "key": key, "data": pin},
    ):
        with pytest.raises(PoolError):
            ask("trust.set", valexp="1", **fields)


# --- revocations --------------------------------------------------------------------------------------


def crl(issuer, serials=(5,), days=(-1, 7), signer=None, extensions=()):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now + datetime.timedelta(days=days[0]))
        .next_update(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign((signer or issuer).private, hashes.SHA256())


def der_of(found):
    return base64.b64encode(found.public_bytes(Encoding.DER)).decode()


def test_serials_are_revoked(filled):
    key = certs.root().key_identifier.hex()
    assert filled("trust.revoke", key, "0a", "FF:00")["serials"] == 2
    assert filled("trust.revoke", key=key, serials=["0b"], next_update_s=4_000_000_000)["serials"] == 3
    [record] = [one for one in filled("trust.get", key)["records"] if "revoke" in one["flags"]]
    assert record["revoked"] == ["00ff00", "0a", "0b"]
    assert record["next_update"].startswith("2096")
    assert filled("trust.unrevoke", key, "0a")["removed"] == 1
    assert filled("trust.unrevoke", key, "0a")["warnings"]
    assert filled("trust.unrevoke", key)["removed"] == 2
    assert filled("trust.unrevoke", key)["warnings"]
    assert "no anchor" in filled("trust.revoke", "aabb", "01")["warnings"][0]
    for wrong in ([], ["xyz"], ["1" * 129], [5], "5"):
        with pytest.raises(PoolError):
            filled("trust.revoke", key=key, serials=wrong)


def test_a_revocation_list_is_taken_over(filled):
    root, key = certs.root(), certs.root().key_identifier.hex()
    made = crl(root, (5, 128))
    answer = filled("trust.revoke", crl=der_of(made))
    assert (answer["key"], answer["serials"], answer["issuer"]) == (key, 2, "CN=Test root")
    [record] = [one for one in filled("trust.get", key)["records"] if "revoke" in one["flags"]]
    assert record["revoked"] == ["0080", "05"]
    pem = base64.b64encode(made.public_bytes(Encoding.PEM)).decode()
    assert filled("trust.revoke", crl=pem)["generation"] == answer["generation"], "the same again"
    newer = crl(root, (5,), (0, 7))
    assert filled("trust.revoke", crl=der_of(newer))["serials"] == 1
    with pytest.raises(PoolError, match="what is known"):
        filled("trust.revoke", crl=der_of(made))
    given = filled("trust.revoke", crl=der_of(crl(certs.intermediate())), data=b64(certs.intermediate().der))
    assert given["key"] == certs.intermediate().key_identifier.hex()
    filled("trust.unrevoke", key)
    assert "out of date" in filled("trust.revoke", crl=der_of(crl(root, days=(-9, -1))))["warnings"][0]


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda: der_of(crl(certs.root(), signer=certs.intermediate())), Code.SIGNATURE_WRONG),
        (lambda: der_of(crl(certs.intermediate())), Code.SIGNATURE_WRONG),
        (lambda: der_of(crl(certs.root()))[:-8], Code.RECORD_MALFORMED),
        (lambda: b64(certs.root().der), Code.RECORD_MALFORMED),
        (lambda: "?", Code.FIELD_MALFORMED),
        (lambda: der_of(crl(certs.root(), extensions=[(x509.DeltaCRLIndicator(1), True)])), Code.RECORD_MALFORMED),
        (
            lambda: der_of(
                crl(
                    certs.root(),
                    extensions=[
                        (x509.IssuingDistributionPoint(None, None, False, True, None, False, False), True),
                    ],
                )
            ),
            Code.RECORD_MALFORMED,
        ),
    ],
)
def test_what_is_no_list_of_that_issuer(filled, made, code):
    generation = filled("trust.list")["generation"]
    with pytest.raises(PoolError) as caught:
        filled("trust.revoke", crl=made())
    assert caught.value.code is code
    assert filled("trust.list")["generation"] == generation


# --- policies -----------------------------------------------------------------------------------------


def test_policies(filled):
    assert filled("policy.set", "host", "modern")["policy"] == "modern"
    assert "no local identity yet" in filled("policy.set", key="localid:Other.example", policy="modern")["warnings"][0]
    assert "warnings" not in filled("policy.set", key="localid:Example.com", policy="intermediate")
    assert {row["key"]: row["policy"] for row in filled("policy.list")["policies"]} == {
        "host": "modern",
        "localid:example.com": "intermediate",
        "localid:other.example": "modern",
    }
    assert filled("policy.get", "localid:EXAMPLE.com")["policy"] == "intermediate"
    assert filled("policy.get", "service:smtp")["policy"] == ""
    assert "crypto policy is still assigned" in filled("localid.del", "example.com")["warnings"][-1]
    assert filled("policy.del", "host")["removed"] == 1
    assert filled("policy.del", "host")["warnings"]
    for key, name, code in (
        ("host", "mordern", Code.POLICY_UNKNOWN),
        ("planet", "modern", Code.RECORD_MALFORMED),
        ("localid:a..b", "modern", Code.IDENTITY_MALFORMED),
    ):
        with pytest.raises(PoolError) as caught:
            filled("policy.set", key, name)
        assert caught.value.code is code


# --- generations --------------------------------------------------------------------------------------


def test_the_history_tells_who_and_why(filled):
    filled("policy.set", key="host", policy="modern", reason="the auditor wants it", author="alice\x1b")
    newest, *older = filled("history")["history"]
    assert [row["generation"] for row in older] == [4, 3, 2]
    assert (newest["generation"], newest["command"], newest["author"]) == (5, "policy.set", "alice")
    assert (newest["reason"], newest["uid"]) == ("the auditor wants it", os.getuid())
    assert newest["changed"] == ["policy host"]
    assert len(filled("history", "2")["history"]) == 2
    shown = filled("history", "show", "5")
    assert shown["changes"] == [{"database": "policy", "key": "host", "removed": [], "added": ["modern"]}]
    assert filled("history.show", generation=2)["changes"][0]["key"] == "example.com"
    assert filled("history", generation=2)["command"] == "localid.set"
    for wrong in (0, 1, 6, "x"):
        with pytest.raises(PoolError):
            filled("history.show", generation=wrong)


def test_differences_are_readable(filled):
    sha256 = hashlib.sha256(certs.leaf().der + certs.intermediate().der).hexdigest()[:16]
    [localid, disclose, trust] = sorted(
        filled("diff", "1", "4")["changes"], key=lambda row: row["database"] != "localid"
    )
    [line] = localid["added"]
    assert line.startswith("x509,client,server,chained pkcs11:object=web CN=example.com until 20")
    assert line.endswith(f"SHA-256 {sha256}")
    assert disclose["added"] == ["example.com"]
    assert trust["added"][0].startswith("x509,client 1 subject CN=Test root SHA-256 ")
    back = filled("diff", a=4, b=1)["changes"]
    assert sorted(row["removed"] for row in back) == sorted(row["added"] for row in filled("diff", a=1)["changes"])
    other = b64(certs.leaf("other.example").der)
    filled("localid.set", id="a.example", flags="x509,server", records=[{"uri": URI, "chain": [other]}])
    filled("disclose.set", selector="@.example.org", ids=["a.example", "example.com"])
    filled("disclose.set", selector="@.example.org", ids=["example.com", "a.example"])
    [row] = filled("history", "show", "7")["changes"]
    assert row == {"database": "disclose", "key": "@.example.org", "removed": [], "added": [], "reordered": True}


def test_pins_of_tokens_are_in_no_answer(tmp_path):
    from tests.fixtures import legacy_databases

    value = b"\0\0\1\1pkcs11:object=x?pin-value=canary\0" + certs.leaf().der
    legacy_databases.write(tmp_path, "localid.db", [(b"a.example", value)])
    databases = Databases(tmp_path)
    admin.handle(databases, {"cmd": "localid.del", "id": "a.example"})
    answers = [
        admin.handle(databases, {"cmd": cmd, **fields})
        for cmd, fields in (("history", {}), ("history.show", {"generation": 2}), ("diff", {"a": 1}))
    ]
    databases.close()
    assert "pkcs11:object=x" in str(answers)
    assert "canary" not in str(answers)


def test_rollback(filled):
    filled("localid.del", "example.com", reason="by mistake")
    answer = filled("rollback", "4", "it was a mistake")
    assert (answer["to"], answer["generation"]) == (4, 6)
    assert answer["changes"][0]["key"] == "example.com"
    assert filled("localid.get", "example.com")["records"]
    assert filled("history", "1")["history"][0]["reason"] == "it was a mistake"
    for wrong in ("0", "7", "x", None):
        with pytest.raises(PoolError):
            filled("rollback", to=wrong)


def test_a_batch_is_one_generation_or_nothing(filled):
    operations = [
        {"cmd": "localid.set", "id": "a.example", "flags": "valexp,client", "records": [{"uri": "T"}]},
        {"cmd": "disclose.set", "selector": ".", "ids": ["a.example"]},
        {"cmd": "localid.del", "id": "a.example"},
    ]
    answer = filled("batch", operations=operations, reason="all of it")
    assert answer["generation"] == 5
    assert [sorted(one) for one in answer["answers"]] == [
        ["id", "records"],
        ["ids", "selector"],
        ["id", "removed", "warnings"],
    ]
    operations[2] = {"cmd": "localid.del", "id": "nobody.example"}
    with pytest.raises(PoolError) as caught:
        filled("batch", operations=operations)
    assert caught.value.code is Code.LOCALID_UNKNOWN
    assert caught.value.detail.startswith("operations[3] localid.del: ")
    for wrong in ([], "x", [{"cmd": "batch"}], [7], [{"cmd": "rollback", "to": 1}], [{"cmd": "trust.set"}]):
        with pytest.raises(PoolError):
            filled("batch", operations=wrong)
    assert filled("localid.list")["generation"] == 5


def test_a_careful_tool(filled):
    assert filled("policy.set", key="host", policy="modern", if_generation=4)["generation"] == 5
    with pytest.raises(PoolError) as caught:
        filled("policy.del", key="host", if_generation=4)
    assert caught.value.code is Code.GENERATION_OTHER
    for fields in (
        {"if_generation": "x"},
        {"if_generation": -1},
        {"reason": 7},
        {"reason": "x" * 501},
        {"reason": "a\nb"},
    ):
        with pytest.raises(PoolError) as caught:
            filled("policy.del", key="host", **fields)
        assert caught.value.code is Code.FIELD_MALFORMED


def test_like_upstream(filled):
    filled("localid.set", id="example.com", flags="valexp,client", records=[{"uri": "T"}])
    filled("localid.set", id="example.com", flags="valexp,server", records=[{"uri": "R"}], like_upstream=True)
    kept = [one["expression"] for one in filled("localid.get", "example.com")["records"] if "expression" in one]
    assert kept == ["R"]


# --- keys ---------------------------------------------------------------------------------------------


def request(strict=False, **fields):
    records = [{"uri": URI, "chain": [b64(certs.leaf().der)]}]
    return {"cmd": "localid.set", "id": "example.com", "flags": "x509,server", "records": records, "strict": strict}


def told(code=0, spki=b"", detail=""):
    return {URI: KeyAnswer(code=code, spki=spki, detail=detail)}


def test_keys_that_are_wanted():
    [one] = keys.wanted(request())
    assert (one.uri, one.identity, one.strict) == (URI, "example.com", False)
    assert one.spki_sha256 == hashlib.sha256(certs.spki(certs.leaf().private)).digest()
    assert [each.strict for each in keys.wanted({"cmd": "batch", "strict": True, "operations": [request()]})] == [True]
    assert keys.wanted({"cmd": "localid.set", "flags": "valexp,server", "records": [{"uri": "1"}]}) == []
    assert keys.wanted({"cmd": "localid.del", "id": "x"}) == []


def test_what_is_made_of_the_answers():
    lax, strict = keys.wanted(request()), keys.wanted(request(strict=True))
    right, other = certs.spki(certs.leaf().private), certs.spki(certs.root().private)
    assert keys.judge(strict, told(spki=right)) == keys.judge(lax, told(spki=right)) == []
    assert "502" in keys.judge(lax, told(502, detail="no such object"))[0]
    assert "608" in keys.judge(lax, {URI: None})[0]
    assert "public key" in keys.judge(lax, told())[0]
    assert keys.judge(lax, {}) == [], "nobody was asked"
    for wanted, answers, code in (
        (lax, told(spki=other), Code.KEY_UNFIT),
        (strict, told(spki=other), Code.KEY_UNFIT),
        (strict, told(502), 502),
        (strict, {URI: None}, Code.KEY_UNCHECKED),
        (strict, {}, Code.KEY_UNCHECKED),
        (strict, told(), Code.KEY_UNCHECKED),
    ):
        with pytest.raises(PoolError) as caught:
            keys.judge(wanted, answers)
        assert caught.value.code == code


def test_without_a_broker_strict_cannot_be(ask):
    with pytest.raises(PoolError) as caught:
        admin.handle(ask.databases, request(strict=True))
    assert caught.value.code is Code.KEY_UNCHECKED
    assert admin.handle(ask.databases, request())["generation"] == 2
