"""Invariants of what stands in databases, in /proc, and in operators' questions to the broker.

One exception type each; what was read is written to the same bytes, or to what reads the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from tests.fuzz import seeds
from tests.fuzz.target import Target, octets, text
from tlspool_broker import caller, certificates, dryrun, explain, history, records, trustdata
from tlspool_broker.validation import levels, revocation
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai
from tlspool_keyd.shell import _uri_untrusted
from tlspool_worker.master_shell import load_untrusted, title_untrusted

VECTORS = Path(__file__).parents[1] / "vectors" / "databases"

# --- records --------------------------------------------------------------------------------------------


def _malformed(error):
    assert error.code is Code.RECORD_MALFORMED, error
    assert 0 < len(str(error)) < 300


def _check_local(data):
    record = records.decode_local_untrusted(data)
    assert record.encode() == data
    assert "pin-value" not in record.shown_uri or not records.has_pin(record.shown_uri)
    assert isinstance(records.is_condition(data, records.SERVER), bool)
    try:
        assert b"".join(record.chain()) == record.credential
    except PoolError as error:
        _malformed(error)


def _check_trust(data):
    record = records.decode_trust_untrusted(data)
    assert record.encode() == data
    assert record.is_anchor + record.is_pin + record.is_revocation <= 1
    try:
        pin = trustdata.pin_of(bytes(32), record)
        again = records.decode_trust_untrusted(pin.encode())
        assert trustdata.pin_of(bytes(32), again) == pin or not pin.until_s
    except PoolError as error:
        _malformed(error)
    try:
        revoked = trustdata.revocations_of(record)
        again = records.decode_trust_untrusted(revoked.encode(record.flags))
        assert trustdata.revocations_of(again) == revoked
    except PoolError as error:
        _malformed(error)


def _check_disclosure(data):
    assert records.decode_disclosure_untrusted(data).encode() == data


def _check_policy(data):
    assert records.decode_policy_untrusted(data).encode() == data


_RECORDS = {"localid": _check_local, "trust": _check_trust, "disclose": _check_disclosure, "policy": _check_policy}


def _check_record(data):
    """The first octet chooses the database."""
    if not data:
        return False
    check = list(_RECORDS.values())[data[0] % len(_RECORDS)]
    try:
        check(data[1:])
    except PoolError as error:
        _malformed(error)
        return False
    return True


def _record_seeds():
    for path in sorted(VECTORS.glob("*.json")):
        case = json.loads(path.read_text())
        if case["database"] in _RECORDS:
            yield bytes((list(_RECORDS).index(case["database"]),)) + bytes.fromhex(case["value"])
    chain = seeds.der("certificate-0-leaf") + seeds.der("certificate-1-ca")
    yield b"\0" + records.LocalRecord(0x2101, "pkcs11:object=a;pin-value=1", chain).encode()
    yield b"\1" + trustdata.Revocations(5, 9, frozenset((b"\1", b"\0\xff"))).encode(0x401)


def _check_history(data):
    try:
        change = history.decode_untrusted(7, data)
    except PoolError as error:
        _malformed(error)
        return False
    assert history.decode_untrusted(7, change.encode()) == change
    history.net([change])
    return True


def _history_seeds():
    by = history.By(1000, "localid.set", "é", "why")
    changes = {("localid", b"a"): ((b"1", b"2"), (b"2", b"3")), ("trust", b"k"): ((), (b"v",))}
    yield history.Change(7, 1_700_000_000, by, changes).encode()
    yield history.Change(7, 0, history.By(), {}).encode()


# --- who is there ---------------------------------------------------------------------------------------


def _check_proc(data):
    unit, command = caller.unit_untrusted(data), caller.command_untrusted(data)
    assert unit == "" or (len(unit) < 260 and unit.isascii() and unit.isprintable() and "/" not in unit)
    assert unit.encode() in data
    assert len(command) <= 15 and command.isprintable()
    title = title_untrusted(data)
    assert title.isprintable() and len(title) < 256 and (not title or b": " in data)
    stat, _, statm = data.partition(b"\n")
    load = load_untrusted(stat, statm)
    assert load.keys() in (set(), {"cpu_s", "rss_kib"})
    json.dumps(load)
    return bool(unit or load or title)


# --- lines of workers -----------------------------------------------------------------------------------


def _check_line(data):
    """Of RemoteShown: links, and strengths."""
    line = text(data)
    key, serial = revocation._link_untrusted.__wrapped__(line)
    if serial:
        assert trustdata.serial_of(int(serial, 16))
    kind, size, hash_name = levels._split_untrusted(line)
    bits = levels.key_bits(kind, size)
    assert 0 <= bits <= 512
    levels.first_classical([line, line])
    return bool(key or bits or hash_name)


# --- operators' questions -------------------------------------------------------------------------------


def _fields_of(data):
    try:
        fields = json.loads(text(data))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _refused(error):
    assert error.code in (Code.FIELD_MALFORMED, Code.IDENTITY_MALFORMED), error
    assert 0 < len(str(error)) < 1000


def _check_question(data):
    fields = _fields_of(data)
    if fields is None:
        return False
    taken = False
    try:
        request, side = dryrun._request_untrusted(fields)
        assert request.to_payload()
        assert bool(request.flags & 1) is (side.name == "CLIENT")
        taken = True
    except PoolError as error:
        _refused(error)
    try:
        told = dryrun._findings_untrusted(fields.get("findings"))
        assert told is None or isinstance(told.crl, explain.Finding)
        done = dryrun._done_untrusted(SimpleNamespace(shown=None), fields)
        assert done.remote_names == ()
    except PoolError as error:
        _refused(error)
    try:
        assert isinstance(_uri_untrusted(fields), str)
    except PoolError as error:
        _refused(error)
    return taken


def _check_remote(data):
    """What a remote has shown, as programs write it."""
    fields = _fields_of(data)
    if fields is None:
        return False
    try:
        found = explain.shown_untrusted(fields)
    except PoolError as error:
        _refused(error)
        return False
    assert explain.shown_untrusted(json.loads(json.dumps(explain.shown_json(found)))) == found
    return True


def _check_stored(data):
    """A certificate that an operator brings; the kind of its key is told where it is a chain by itself."""
    try:
        certificate = certificates.load(data)
    except PoolError as error:
        _malformed(error)
        return False
    for read in (certificates.key_identifier, lambda _: certificates.check_chain((data,))):
        try:
            read(certificate)
        except PoolError as error:
            _malformed(error)
    assert all(isinstance(doubt, str) for doubt in certificates.doubts(certificate, Donai(None, "a.example")))
    return True


TARGETS = (
    Target(
        "certificate-stored",
        "RECORD_MALFORMED, or a certificate whose key, identifier and doubts can be told, or are RECORD_MALFORMED.",
        _check_stored,
        lambda: seeds.ders("certificate-"),
        (b"\x30\x82", b"\x02\x01", b"\x06\x03\x55\x1d", b"\x01\x01\xff"),
        der=0,
    ),
    Target(
        "database-record",
        "RECORD_MALFORMED, or a record that is written to the same bytes; so are chains, pins and revocations in it.",
        _check_record,
        _record_seeds,
        (b"pkcs11:", b"pin-value=", b"\0\0\1\1", b"\0\0\x08\1", b"\0\2\x08\1", b"\0\0\4\1", b"\x30\x82", b"\x02\1"),
    ),
    Target(
        "history",
        "RECORD_MALFORMED, or a change that is written to what reads the same.",
        _check_history,
        _history_seeds,
        (b"\0\0\0\1", b"\x80\0\0\0", b"\x80\0\0\1"),
    ),
    Target(
        "proc",
        "A unit's name as it stands there, or none; a command of 15 printable characters; a title of some; a child's "
        "load, or none.",
        _check_proc,
        lambda: (
            b"0::/system.slice/postfix.service\n",
            b"3:cpu:/x\n1:name=systemd:/user.slice/user-0.slice/_session.scope/a/b\n",
            b"smtpd\n",
            b"tlspool-worker: 1000 postfix.service: 5 sessions\0\0\0",
            b"7 (a) \xff) b) S" + b" 1" * 40 + b"\n9 8 7 6 5 4 3",
        ),
        (b"0::/", b".service", b".scope", b"\n", b"/", b"_", b"name=systemd:"),
    ),
    Target(
        "shown-lines",
        "Lines of a worker about certificates: whatever they say, a number is a number, and nothing is raised.",
        _check_line,
        lambda: (b"0a0b 12ff", b"- 05", b"rsa 2048 sha256", b"ml-dsa-65 0 -", b"ec 256 sha384"),
        (b" ", b"-", b"0x", b"_", b"+", *map(octets, "٣\u2003")),
        300,
    ),
    Target(
        "dry-run",
        "FIELD_MALFORMED, or a question that fits the application's protocol; a key's URI is text.",
        _check_question,
        lambda: (
            b'{"side": "server", "localid": "a.example", "remoteid": "b@c.example", "flags": ["ignore_remoteid"], '
            b'"findings": {"crl": "good", "ocsp": "none", "detail": "x"}, "tls_version": 772, "cipher": "x"}',
            b'{"uri": "pkcs11:object=a", "args": ["x"], "flags": [1], "findings": 3, "group": null}',
        ),
        (b'"side":', b'"flags":', b'"findings":', b"[[[[", b"]]]]", b"{", b"}", b'"\\ud800"', b"1e9", b"null"),
    ),
    Target(
        "remote-shown",
        "FIELD_MALFORMED, or what reads the same when it is written as programs write it.",
        _check_remote,
        lambda: (
            json.dumps(explain.shown_json(explain.NOTHING_SHOWN)).encode(),
            b'{"names": ["dns:a.example"], "anchor_sha256": "' + b"0a" * 32 + b'", "stapled": "good", "fault": 401}',
        ),
        (b'"names":', b'"stapled":', b"[", b"]", b'"\\ud800"', b"18446744073709551615", b"-1", b"true"),
    ),
)
