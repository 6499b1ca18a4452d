"""Invariants of audit trails, and of the records of sessions that workers keep for a broker.

What was not written so, or not sealed with the key, is never believed, however little of it was changed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from functools import cache
from types import SimpleNamespace

from tests.fuzz.target import Target, octets, text
from tests.playbook.broker import FakeRecords, kept_of
from tlspool_admin.trails import heads_untrusted
from tlspool_broker import kept, kept_access
from tlspool_broker.meter import Meter
from tlspool_broker.radius_grant import Admission
from tlspool_broker.workers import Worker, WorkerNumber
from tlspool_common import audit
from tlspool_common.appwire import CTLKEY_B, Starttls
from tlspool_common.errors import Code, PoolError

# --- records of a trail ---------------------------------------------------------------------------------

_TIME = "2026-03-02T09:12:31.004Z"


def _sealed(body: bytes) -> bytes:
    """Put the hash behind a record without one."""
    return b'%b,"hash":"%b"}\n' % (body[:-1], hashlib.sha256(body).hexdigest().encode())


def _record(data):
    try:
        found = audit.record_untrusted(data)
    except audit.BadRecord as error:
        assert 0 < len(str(error)) < 200
        return None
    body, comma, end = data[:-1].rpartition(b',"hash":"')
    assert comma and end == f'{found.hash}"}}'.encode() == f'{hashlib.sha256(body + b"}").hexdigest()}"}}'.encode()
    whole = {name: getattr(found, name) for name in ("seq", "time", "daemon", "event", "fields", "prev", "hash")}
    assert json.dumps(whole, separators=(",", ":")).encode() + b"\n" == data
    assert all(isinstance(value, str | int | float | None) for value in found.fields.values())
    assert found.time.isascii() and len(found.time) == len(_TIME)
    at = len(found.event) * 7919 % len(data)
    for changed in (data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], data[:at] + data[at + 1 :], data + b"\n"):
        try:
            audit.record_untrusted(changed)
        except audit.BadRecord:
            continue
        raise AssertionError(f"changed at {at}, and read all the same")
    try:
        line, head = audit.line(
            audit.Head(found.seq - 1, found.prev), found.time, found.daemon, found.event, found.fields
        )
    except ValueError:
        assert any(name.endswith("_secret") for name in found.fields)  # nobody writes these
    else:
        again = audit.record_untrusted(line)
        assert again.head == head and again.fields.keys() == found.fields.keys()
        is_short = all(not isinstance(value, str | float) or len(str(value)) < 4 for value in found.fields.values())
        assert line == data or not is_short
    return found


def _check_record(data):
    """A line as it stands; and the same with the right hash behind it, as who forges a whole trail has it."""
    as_it_is = _record(data)
    return bool(_record(_sealed(data)) or as_it_is)


def _record_seeds():
    for fields in ({}, {"session": 7, "why": "é\n", "ok": True, "rate": 0.5, "who": None}, {"lost_b": 1, "a": -1}):
        line, _ = audit.line(audit.EMPTY, _TIME, "broker", "session.start", fields)
        yield line
        yield line.rpartition(b',"hash"')[0] + b"}"


# --- trails ---------------------------------------------------------------------------------------------

_LOST = (b'{"seq":3,"time":"20', b"half a line\nand another\n", b"\n")


@cache
def _trails() -> tuple[tuple[bytes, ...], ...]:
    """Return the pieces of two trails that begin alike, each with what was found behind some of their records."""
    made = []
    for which in ("one", "other"):
        pieces, head = [], audit.EMPTY
        for number, lost in enumerate(_LOST):
            for event in ("session.start", "session.end"):
                fields = {"session": number, "which": which if number else "both"}
                line, head = audit.line(head, _TIME, "keyd", event, fields)
                pieces.append(line)
            counted = audit.Lost()
            counted.add(lost)
            end = b"" if counted.ends_line else b"\n"
            line, head = audit.line(head, _TIME, "keyd", audit.RECOVERED, {"missed": 1, **counted.fields()})
            pieces.append(lost + end + line)
        made.append(tuple(pieces))
    return tuple(made)


@cache
def _whole():
    """Return all that a trail may be: pieces from its beginning."""
    return frozenset(b"".join(pieces[:count]) for pieces in _trails() for count in range(len(pieces) + 1))


@cache
def _parts():
    """Return what may be left of one, with what was lost before the first record, or without that."""
    whole = [pieces[:count] for pieces in _trails() for count in range(len(pieces) + 1)]
    made = [(pieces, begin) for pieces in whole for begin in range(len(pieces))]
    return frozenset(part for pieces, begin in made for part in (b"".join(pieces[begin:]), _behind(pieces, begin)))


_record_untrusted = audit.record_untrusted


def _record_or_not(line):
    try:
        return _record_untrusted(line)
    except audit.BadRecord as error:
        return error


@cache
def _records():
    """Return what stands in the lines that were written."""
    lines = {line for pieces in _trails() for piece in pieces for line in piece.splitlines(keepends=True)}
    return {line: record for line in lines if isinstance(record := _record_or_not(line), audit.Record)}


class _Once:
    """Reads each line once, and those that were written never again: what it is depends on nothing else."""

    def __init__(self):
        self._known = {}

    def __call__(self, line):
        record = _records().get(line) or self._known.get(line)
        if record is None:
            record = self._known[line] = _record_or_not(line)
        if isinstance(record, audit.BadRecord):
            raise record
        return record


def _read(lines, **how):
    """Read a trail as ``tlspool audit verify`` does; None: it is broken."""
    chain, found = audit.Chain(**how), []
    for line in lines:
        try:
            record = chain.take_untrusted(line)
        except audit.Broken as error:
            assert 0 < len(str(error)) < 300
            return None
        assert (record is None) == bool(chain.unexplained)
        if record is not None:
            found.append(record)
            assert chain.head == record.head
    return None if chain.unexplained else found


def _forged(lines):
    """Whether a record is among them that nobody wrote, with its right hash.

    The hash has no key, so that who can compute it can forge what nothing known stands behind; the fuzzer does, once in
    millions of inputs, as it sees what the hash is compared with.  Such a trail says nothing about those that were
    written.
    """
    others = [line for line in lines if line not in _records() and isinstance(_record_or_not(line), audit.Record)]
    for line in others:
        body, comma, end = line.rpartition(b',"hash":"')
        assert comma and end == _sealed(body + b"}").rpartition(b',"hash":"')[2]
    return bool(others)


def _check_trail(data):
    """Of octets without \\r, \\v and the like, at which ``splitlines`` of octets does not split either."""
    data = data.replace(b"\r", b" ")
    lines = data.splitlines(keepends=True)
    audit.record_untrusted = _Once()
    try:
        found, later = _read(lines), _read(lines, anywhere=True)
    finally:
        audit.record_untrusted = _record_untrusted
    if found is not None:
        assert data in _whole() or _forged(lines), "not as it was written, and whole"
    assert found is None or later == found
    if later:
        assert data in _parts() or _forged(lines)
        assert [record.seq for record in later] == list(range(later[0].seq, later[0].seq + len(later)))
    return bool(later)


def _behind(pieces, begin):
    """Return pieces without what was lost before the first of them."""
    joined = b"".join(pieces[begin:])
    return joined[joined.find(b'{"seq":%d,' % _seq(pieces[begin])) :]


def _seq(piece):
    return int(re.search(rb'\{"seq":(\d+),"time":"[^"]*","daemon"', piece)[1])


def _trail_seeds():
    for pieces in _trails():
        yield b"".join(pieces)
        yield b"".join(pieces[:5])
        yield b"".join(pieces[4:])


# --- heads in a log -------------------------------------------------------------------------------------


_DIGITS, _HEX = frozenset("0123456789"), frozenset("0123456789abcdef")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_NO_WORD = re.compile(r"\W")


def _check_heads(data):
    """A second reader goes from colon to colon."""
    given = text(data)
    found = [(daemon, head.seq, head.hash) for daemon, heads in heads_untrusted(given).items() for head in heads]
    parts = given.split(":")
    told = []
    for at in [at for at, part in enumerate(parts) if len(part) >= 64 and at >= 2]:
        before, number, after = parts[at - 2 : at + 1]
        daemon, digest, behind = _NO_WORD.split(before)[-1], after[:64], after[64:65]
        if (
            0 < len(daemon) <= 20
            and set(daemon) <= _LETTERS
            and 0 < len(number) <= 18
            and set(number) <= _DIGITS
            and set(digest) <= _HEX
            and not (behind == "_" or behind.isalnum())
        ):
            told.append((daemon, int(number), digest))
    assert sorted(found) == sorted(told)
    if found:
        written = " ".join(f"{daemon}:{audit.Head(seq, digest)}" for daemon, seq, digest in found)
        assert sum(map(len, heads_untrusted(written).values())) == len(found)
    return bool(found)


# --- what a worker keeps --------------------------------------------------------------------------------


def _grant():
    """What RADIUS has granted, as it is kept."""
    access = Admission("mail", "0a-5", ("User-Name=a@b.example",), True, classes=(b"c",), tags=("staff",), terminate=1)
    return kept_access.to_bytes(SimpleNamespace(access=access, meter=Meter(began_ms=1, timed_ms=2, active_ms=3)))


_KEY, _OTHER_KEY = bytes(range(32)), bytes(32)
_KEPT = (
    kept_of(5, 7),
    kept_of(5, 7, remote_names=("dns:a.example", "dns:b.example"), expected="@b.example", unit="", remoteid=""),
    kept_of(5, 7, access=_grant()),
)


@cache
def _genuine():
    return frozenset(kept.seal(_KEY, one) for one in _KEPT)


@cache
def _around():
    """Return the worker and the records that sessions are taken up with, which change neither."""
    return Worker(WorkerNumber(1), 7, 815, None, 0, 0), FakeRecords()


@cache
def _ctlkey():
    """Return where a request has its control key."""
    keyed = Starttls(ctlkey=b"\xff" * CTLKEY_B).to_payload()
    return slice(keyed.index(b"\xff"), keyed.index(b"\xff") + CTLKEY_B)


def _unsealed(key, data):
    try:
        return kept.unseal_untrusted(key, data, 5, 7)
    except PoolError as error:
        assert error.code is Code.INTERNAL and 0 < len(str(error)) < 500
        return None


def _check_kept(data):
    """As a worker may give it back; and sealed, as a broker with a fault in it might have.

    Whether another session is refused, or another worker, is asked of half of the inputs each: both take all of it to
    be read, and what is in it makes no difference.
    """
    found = _unsealed(_KEY, data)
    assert (found is not None) == (data in _genuine()), "not sealed by the broker, or sealed and not read"
    assert _unsealed(_OTHER_KEY, data) is None
    frame = data[8:-32]
    sealed = kept.key_id(_KEY) + frame
    sealed += hmac.digest(_KEY, sealed, "sha256")
    assert _unsealed(_OTHER_KEY, sealed) is None
    read = _unsealed(_KEY, sealed)
    if read is None:
        return found is not None
    again = kept.seal(_KEY, read)
    assert again[8:10] + again[14:-32] == frame[:2] + frame[6:]  # the exchange counts for nothing
    try:
        kept.unseal_untrusted(_KEY, sealed, *((6, 7), (5, 8))[sealed[-1] % 2])
    except PoolError:
        pass
    else:
        raise AssertionError("a record of another session, or another worker")
    worker, records = _around()
    try:
        session = kept.session_of(read, worker, records)
    except PoolError as error:
        assert error.code is Code.INTERNAL and 0 < len(str(error)) < 700
        return True
    once = kept.of(session, worker, read.control)
    assert once.control == read.control and once.request[_ctlkey()] == bytes(CTLKEY_B)
    assert kept.of(kept.session_of(once, worker, records), worker, read.control) == once  # a fixed point
    return True


TARGETS = (
    Target(
        "audit-record",
        "BadRecord, or a record that is written to the same bytes, of plain values, whose hash is that of the bytes "
        "before it; and with any octet changed it is none.",
        _check_record,
        _record_seeds,
        (b'"fields":{', b'":', b',"', b"null", b"1e5", b"[[[[", b"]]]]", b'{"a":', b'"\\ud800"', b"\\u0661", b"}\n"),
        limit_b=audit.RECORD_B,
    ),
    Target(
        "audit-trail",
        "What is whole is, octet for octet, the beginning of a trail that was written, or a part of one where older "
        "files were taken away, or has a record that was forged with its right hash; everything else is Broken, or "
        "unexplained.",
        _check_trail,
        _trail_seeds,
        (b"\n", b"{", b"}\n", b'{"seq":', *(line for piece in _trails()[1][2:4] for line in piece.splitlines(True))),
        limit_b=audit.RECORD_B,
    ),
    Target(
        "audit-heads",
        "The same heads as a second reader finds; and written again they are read again.",
        _check_heads,
        lambda: (
            f"1 audit.head head=broker:17:{'0a' * 32} keyd:0:{audit.START}\n".encode(),
            octets(f"é worker:000000000000000001:{'f' * 64}é:1:{'f' * 64}_"),
        ),
        (b":", b" ", b"_", b"a:1:", audit.START.encode(), *map(octets, "é\u0661\u2003")),
        limit_b=1 << 16,
    ),
    Target(
        "kept-session",
        "Nothing but what was sealed with the key is read, and only for its session and worker; INTERNAL is the one "
        "error; and a session that was taken up again is kept as it was.",
        _check_kept,
        lambda: [kept.seal(_KEY, one) for one in _KEPT],
        (b"\0\4", b"\0\0\0\5", b"\0\0\0\7", b"localhost", b"\xc3\xa9"),
    ),
)
