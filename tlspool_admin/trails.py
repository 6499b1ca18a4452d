"""Audit trails as files that somebody hands in: which there are, whether they are whole, and what is in them."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlspool_common import audit
from tlspool_common.audit import Broken, Chain, Head, Record
from tlspool_common.errors import Code, PoolError

_FILE = re.compile(r"([a-z]{1,20})-([0-9]{6,12})\.jsonl")
_HEAD = re.compile(r"\b([a-z]{1,20}):([0-9]{1,18}):([0-9a-f]{64})\b")

_LOOKS, _LOOK_S = 4, 0.05
"""A daemon may be writing the very line that is read; some milliseconds later it is there."""

Heads = Mapping[str, Sequence[Head]]
Trails = dict[str, list[Path]]


@dataclass(slots=True)
class Verdict:
    """What verifying a trail has found; ``broken``: the first bad line, and why; line 0 is none of any file."""

    daemon: str
    files: list[Path]
    records: int = 0
    first: Record | None = None
    last: Record | None = None
    recovered: list[Record] = field(default_factory=list)
    broken: tuple[Path, int, str] | None = None
    unfinished: bool = False


def find(paths: Iterable[Path]) -> Trails:
    """Return the files of each trail, oldest first; of a directory all that are in it.

    Raises:
        PoolError: FIELD_MALFORMED, one is named as no file of a trail is; SETTING_INVALID, there are none.
        OSError: one does not exist, or a directory cannot be read.
    """
    found: dict[str, dict[int, Path]] = {}
    paths = list(paths)
    for path in paths:
        names = [one for one in path.iterdir() if _FILE.fullmatch(one.name)] if path.is_dir() else [path]
        for one in names:
            one.stat()  # one that does not exist is called that, and not misnamed
            match = _FILE.fullmatch(one.name)
            if match is None:
                raise PoolError(Code.FIELD_MALFORMED, f"{one} is not named as a file of a trail: broker-000001.jsonl")
            found.setdefault(match[1], {})[int(match[2])] = one
    if not found:
        raise PoolError(Code.SETTING_INVALID, f"no audit trail in {', '.join(map(str, paths))}; is audit_dir set?")
    return {daemon: [files[number] for number in sorted(files)] for daemon, files in sorted(found.items())}


def heads_untrusted(text: str) -> dict[str, list[Head]]:
    """Return the heads in a text, such as a log, by daemon."""
    found: dict[str, list[Head]] = {}
    for daemon, seq, digest in _HEAD.findall(text):
        found.setdefault(daemon, []).append(Head(int(seq), digest))
    return found


def verify(daemon: str, files: Sequence[Path], heads: Sequence[Head] = (), *, partial: bool = False) -> Verdict:
    """Read a trail from its beginning, and say where it breaks.

    ``heads`` were told elsewhere: their records must be there.  ``partial``: older files were taken away.

    Raises:
        OSError: a file cannot be read.
    """
    for _ in range(_LOOKS):
        verdict = _verify(daemon, files, heads, partial)
        if not verdict.unfinished:
            break
        time.sleep(_LOOK_S)
    return verdict


def _verify(daemon: str, files: Sequence[Path], heads: Sequence[Head], partial: bool) -> Verdict:
    verdict = Verdict(daemon, list(files))
    chain = Chain(anywhere=partial)
    chain.daemon = daemon
    told: dict[int, set[str]] = {}
    for head in heads:
        told.setdefault(head.seq, set()).add(head.hash)
    where, number = files[0], 0
    doubtful: tuple[Path, int] | None = None
    data = b""
    try:
        for where in files:
            number = 0
            with where.open("rb") as file:
                while data := file.readline(audit.RECORD_B + 1):
                    number += 1
                    last = data
                    record = chain.take_untrusted(data)
                    if record is None:
                        doubtful = doubtful or (where, number)
                        continue
                    doubtful = None
                    _believe(record, told)
                    verdict.records += 1
                    verdict.first, verdict.last = verdict.first or record, record
    except Broken as error:
        place = doubtful or (where, number)
        verdict.broken = (*place, str(error))
    else:
        if doubtful is not None:
            verdict.broken = (*doubtful, chain.unexplained)
            verdict.unfinished = not last.endswith(b"\n")
        elif missing := [seq for seq in told if seq and (verdict.last is None or seq > verdict.last.seq)]:
            verdict.broken = (where, number + 1, f"the end is missing: there was a record {max(missing)}")
    verdict.recovered = chain.recovered
    return verdict


def _believe(record: Record, told: Mapping[int, set[str]]) -> None:
    if record.seq in told and told[record.seq] != {record.hash}:
        raise Broken(f"it is not the record {record.seq} whose head was told")


def records(trails: Trails) -> Iterator[Record]:
    """Return the records of several trails in the order of time; lines that are none are left out.

    Raises:
        OSError: a file cannot be read.
    """
    return heapq.merge(*(_read(files) for files in trails.values()), key=lambda record: record.time)


def _read(files: Sequence[Path]) -> Iterator[Record]:
    for path in files:
        with path.open("rb") as file:
            while data := file.readline(audit.RECORD_B + 1):
                try:
                    yield audit.record_untrusted(data)
                except audit.BadRecord:
                    continue
