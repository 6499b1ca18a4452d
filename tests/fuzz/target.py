"""What a fuzz target is, and how inputs for it are made; targets.py says how to add one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import der

CORPUS = Path(__file__).with_name("corpus")

SMALL = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\0\0", b"\xff\xff", b"\x80\0", b"\0\0\0\0", b"\xff\xff\xff\xff")

TOKEN_B = 64
"""A token may be so long: libFuzzer takes no longer ones."""


@dataclass(frozen=True)
class Target:
    """A parser, or several that belong together.

    Attributes:
        name: of the target, its directory in corpus/ and its row in docs/fuzzing.md.
        invariant: what must hold whatever the input is, in words.
        check: holds one input against it; returns whether the input was taken.  Whatever it raises is a finding.
        seeds: makes inputs to begin with, good ones above all; they must be the same in every process.
        tokens: octets that mean something to the parser.
        most_b: longest input.
        limit_b: what the parser itself takes at most, if that is more: such inputs must be done with soon.
        der: inputs are DER behind so many octets, and half of the mutants stay DER; None: they are not.
        mutants: how many the test run gives it; fewer for what is slow.
        takes_all: whether no input is refused, by nature.
    """

    name: str
    invariant: str
    check: Callable[[bytes], bool]
    seeds: Callable[[], Iterable[bytes]]
    tokens: tuple[bytes, ...] = ()
    most_b: int = 4096
    limit_b: int = 0
    der: int | None = None
    mutants: int = 40
    takes_all: bool = False


@cache
def seeds_of(target: Target) -> tuple[bytes, ...]:
    """Return the seeds, made once."""
    return tuple(target.seeds())


def findings_of(name: str) -> list[Path]:
    """Return what long runs have found, and what was kept of it."""
    directory = CORPUS / name
    return sorted(path for path in directory.iterdir() if path.is_file()) if directory.is_dir() else []


def text(data: bytes) -> str:
    """Return text of any octets; what is no UTF-8 becomes lone surrogates, which text from outside can have."""
    return data.decode("utf-8", "surrogateescape")


def octets(given: str) -> bytes:
    """Return the octets that ``text`` makes this text of."""
    return given.encode("utf-8", "surrogateescape")


# --- mutants for the test run ---------------------------------------------------------------------------

_EDITS = ("write", "write", "insert", "insert", "delete", "flip", "double", "step", "cut", "splice")


def mutants(target: Target) -> st.SearchStrategy[bytes]:
    """Make inputs of a target's seeds: hypothesis shrinks the list of edits, and so the difference to the seed."""
    found = seeds_of(target)
    piece = st.sampled_from([*target.tokens, *SMALL]) | st.binary(min_size=1, max_size=4)
    edit = st.tuples(st.sampled_from(_EDITS), st.integers(0, 1 << 20), st.integers(0, 255), piece)
    edited = st.tuples(st.sampled_from(found), st.lists(edit, max_size=5), st.sampled_from(found)).map(_edited)
    if target.der is not None:
        edit = st.tuples(st.sampled_from(der.MANNERS), st.integers(0, 1 << 20), st.integers(0, 255), piece)
        inside = st.tuples(st.sampled_from(found), st.lists(edit, min_size=1, max_size=3))
        edited |= inside.map(lambda drawn: inside_der(target, *drawn))
    return edited.map(lambda data: data[: target.most_b]) | st.binary(max_size=min(64, target.most_b))


def endless_mutants(target: Target) -> Iterator[bytes]:
    """Yield mutants of the same kinds for ever, the same ones each time."""
    chance = random.Random(target.name)
    found = seeds_of(target)
    pieces = [*target.tokens, *SMALL]
    while True:
        is_inside = target.der is not None and chance.random() < 0.5
        edits = [
            (
                chance.choice(der.MANNERS if is_inside else _EDITS),
                chance.getrandbits(20),
                chance.getrandbits(8),
                chance.choice(pieces) if chance.random() < 0.5 else chance.randbytes(chance.randint(1, 4)),
            )
            for _ in range(chance.randint(1, 4))
        ]
        seed = chance.choice(found)
        data = inside_der(target, seed, edits) if is_inside else _edited((seed, edits, chance.choice(found)))
        yield data[: target.most_b]


def inside_der(target: Target, seed: bytes, edits: Iterable[tuple[str, int, int, bytes]]) -> bytes:
    """Change elements of the DER in an input."""
    before, data = seed[: target.der], seed[target.der :]
    for edit in edits:
        data = der.edited(data, *edit)
    return before + data


def _edited(drawn: tuple[bytes, list[tuple[str, int, int, bytes]], bytes]) -> bytes:
    seed, edits, other = drawn
    data = bytearray(seed)
    for manner, where, amount, piece in edits:
        at = where % (len(data) + 1)
        few = 1 + amount % 8
        if manner == "write":
            data[at : at + len(piece)] = piece
        elif manner == "insert":
            data[at:at] = piece
        elif manner == "delete":
            del data[at : at + few]
        elif manner == "double":
            data[at:at] = data[at : at + amount]
        elif manner == "cut" and amount < 64:
            del data[at:]
        elif manner == "splice":
            data[at:] = other[where % (len(other) + 1) :]
        elif at < len(data):
            data[at] = (data[at] ^ 1 << amount % 8) if manner == "flip" else (data[at] + (1, -1)[amount % 2]) & 0xFF
    return bytes(data)
