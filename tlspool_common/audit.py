"""The audit trail as bytes: records of one line each, and the chain they form.  Pure; trail.py writes the files.

    {"seq":17,"time":"2026-03-02T09:12:31.004Z","daemon":"broker","event":"session.start","fields":{...},
     "prev":"<hash of record 16>","hash":"<SHA-256 of this record without its hash>"}

A record is written in one way only: these members in this order, no blanks, nothing but ASCII.  So the hash of a
record fixes each of its bytes, and ``prev`` those of all records before it.  The first record has 64 zeros there.

A daemon that is killed, or finds the disk full, may leave bytes behind that are no whole record.  Nothing is ever
taken out of a file, so they stay, and the next record, ``audit.recovered``, says how many they are (``lost_b``) and
what their hash is (``lost_sha256``).  Bytes that no such record accounts for are a break of the chain.

What a chain cannot show: that its end is missing, or that who may write the file has written it anew from some record
on.  Against that *heads* (number and hash of the newest record) are told elsewhere: to the log, and to who asks.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from tlspool_common.log import Value

START = "0" * 64
"""``prev`` of the very first record."""

RECORD_B = 64 * 1024
"""Longest line.  The facts have some 25 fields of at most VALUE_CHARACTERS, which JSON may write sixfold."""

VALUE_CHARACTERS = 1000
"""Longest text of a field: a detail of a border message fits twice; a flood does not."""

_SHORT_CHARACTERS = 200
"""And where a record would be too long because of many such texts."""

RECOVERED = "audit.recovered"

_MEMBERS = ["seq", "time", "daemon", "event", "fields", "prev", "hash"]
_TEXT, _PLAIN = frozenset((str,)), frozenset((str, int, float, bool, type(None)))
_HASH = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_TAIL_B = len(',"hash":""}') + 64


class BadRecord(Exception):
    """A line is no record; says why."""


class Broken(Exception):
    """The chain is broken; says how."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a trail: all before it follows from its hash."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


EMPTY = Head(0, START)
"""The head of a trail without records."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line."""

    seq: int
    time: str
    daemon: str
    event: str
    fields: Mapping[str, object]
    prev: str
    hash: str

    @property
    def head(self) -> Head:
        """The head of a trail that ends here."""
        return Head(self.seq, self.hash)


def stamp(unix_s: float) -> str:
    """Return a time as records have it."""
    at = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def line(head: Head, time: str, daemon: str, event: str, fields: Mapping[str, Value]) -> tuple[bytes, Head]:
    """Return the record that follows ``head``, as a line, and the head it makes.

    Raises:
        ValueError: a field is named as a secret, or holds something that is no plain value.
    """
    start = {"seq": head.seq + 1, "time": time, "daemon": daemon, "event": event}
    for most in (VALUE_CHARACTERS, _SHORT_CHARACTERS):
        kept = {name: _plain(name, value, most) for name, value in fields.items()}
        body = _dump({**start, "fields": kept, "prev": head.hash})
        if len(body) + _TAIL_B < RECORD_B:
            break
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), Head(head.seq + 1, digest)


def _plain(name: str, value: Value, most: int) -> Value:
    if name.endswith("_secret"):
        raise ValueError(f"{name} must not be recorded")
    kind = type(value)
    if kind is int or (kind is str and len(value) <= most):  # type: ignore[arg-type] # most of them
        return value
    if isinstance(value, str):
        return value if len(value) <= most else value[:most] + "..."
    if isinstance(value, float):
        return round(value, 3)
    if not isinstance(value, (int, bool, type(None))):
        raise ValueError(f"{name}: {type(value).__name__} is no plain value")
    return value


_dump = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


_load = json.JSONDecoder(parse_constant=_no_number).decode


def record_untrusted(data: bytes) -> Record:
    """Read a line, with its end.

    Raises:
        BadRecord: it is no record, or not written as ``line`` writes it, or its hash is another.
    """
    if len(data) > RECORD_B or not data.endswith(b"}\n"):
        raise BadRecord("it is no whole line of at most 64 KiB")
    try:
        text = data[:-1].decode("ascii")
        found = _load(text)
        written = _dump(found) if isinstance(found, dict) else ""
    except (ValueError, RecursionError):
        raise BadRecord("it is no JSON of a record") from None
    if list(found if isinstance(found, dict) else ()) != _MEMBERS:
        raise BadRecord("it has not the members of a record")
    if written != text:
        raise BadRecord("it is not written as records are")
    seq, time, daemon, event, fields, prev, digest = (found[name] for name in _MEMBERS)
    if type(seq) is not int or seq < 1 or not isinstance(fields, dict):
        raise BadRecord("a member is not of its kind")
    if not _TEXT.issuperset(map(type, (time, daemon, event, prev, digest))):
        raise BadRecord("a member is not of its kind")
    if not _PLAIN.issuperset(map(type, fields.values())):
        raise BadRecord("a field is no plain value")
    if not (_HASH.fullmatch(prev) and _HASH.fullmatch(digest) and _TIME.fullmatch(time)):
        raise BadRecord("a hash or the time is malformed")
    if hashlib.sha256(f"{text[:-_TAIL_B]}}}".encode()).hexdigest() != digest:
        raise BadRecord("its hash is another one: it was changed")
    return Record(seq, time, daemon, event, fields, prev, digest)


class Lost:
    """Bytes that are no whole record, as they are counted by who recovers and by who verifies.

    ``ends_line``: the next byte is the first of a line.
    """

    def __init__(self) -> None:
        self.count_b = 0
        self.ends_line = self._began_line = True
        self._data = self._last = b""
        self._but_last = hashlib.sha256()  # of all but the last byte

    def add(self, data: bytes) -> None:
        """Add some."""
        if data:
            self._began_line, self.ends_line = self.ends_line, data.endswith(b"\n")
            self.count_b += len(data)
            self._but_last.update(self._last + data[:-1])
            self._data, self._last = data, data[-1:]

    @property
    def end(self) -> bytes:
        """The last line of what was added last, or as much of it as a record may have."""
        return self._data[self._data.rfind(b"\n", 0, -1) + 1 :][-RECORD_B:]

    def fields(self) -> dict[str, Value]:
        """Return what a record says of them."""
        return {"lost_b": self.count_b, "lost_sha256": self._whole()}

    def is_meant(self, fields: Mapping[str, object]) -> bool:
        """Whether a record speaks of these, or of these without the end of line that was put behind them."""
        said = fields.get("lost_b"), fields.get("lost_sha256")
        if said == (self.count_b, self._whole()):
            return True
        # An end of line is put only behind what has none: one more behind another was put there by somebody else.
        before = self._began_line if len(self._data) <= 1 else self._data.endswith(b"\n\n")
        is_put = self.ends_line and not before
        return is_put and said == (self.count_b - 1, self._but_last.hexdigest())

    def _whole(self) -> str:
        digest = self._but_last.copy()
        digest.update(self._last)
        return digest.hexdigest()


class Chain:
    """Reads a trail from its beginning, line by line, and says where it breaks."""

    def __init__(self, *, anywhere: bool = False) -> None:
        """``anywhere``: it may begin with any record, because older files were taken away."""
        self.head: Head | None = None if anywhere else EMPTY
        self.daemon = ""
        self.recovered: list[Record] = []
        self._lost = Lost()
        self._why = ""

    @property
    def unexplained(self) -> str:
        """Why the lines since the last record are none; '' if there are not any."""
        return self._why

    def take_untrusted(self, data: bytes) -> Record | None:
        """Take a line, or a piece of a very long one; None: it is no record, which the next one has to explain.

        Raises:
            Broken: the chain is broken at this line, or was before it where ``unexplained`` says so.
        """
        try:
            if not self._lost.ends_line:
                raise BadRecord("it does not begin a line")
            record = record_untrusted(data)
        except BadRecord as error:
            self._why = self._why or str(error)
            self._lost.add(data)
            return None
        if self._why:
            follows = self.head is not None and (record.seq, record.prev) == (self.head.seq + 1, self.head.hash)
            if not follows or record.event != RECOVERED or not self._lost.is_meant(record.fields):
                raise Broken(self._why)
        elif record.event == RECOVERED and record.fields.get("lost_b", 0):
            raise Broken("it speaks of lost bytes, and they are not before it")
        self._follow(record)
        self._lost, self._why = Lost(), ""
        if record.event == RECOVERED:
            self.recovered.append(record)
        return record

    def _follow(self, record: Record) -> None:
        head = self.head
        if head is not None and record.seq != head.seq + 1:
            raise Broken(f"record {record.seq} where {head.seq + 1} is due: records are missing, repeated or swapped")
        if head is not None and record.prev != head.hash:
            raise Broken(f"it does not follow record {head.seq} as that is now: one of them was changed")
        if self.daemon and record.daemon != self.daemon:
            raise Broken(f"it is a record of {record.daemon}, in the trail of {self.daemon}")
        self.head, self.daemon = record.head, record.daemon
