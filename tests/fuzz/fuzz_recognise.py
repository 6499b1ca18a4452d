"""Invariant: whatever the bytes, recognise_untrusted names a shape or raises PoolError(CONTENT_REFUSED), nothing else.
And what it names is what oracle_recognise, which was written apart from it, names as well.

    python tests/fuzz/fuzz_recognise.py --runs 10000000 [--seed N]

Mutants are made from the vectors: most keep the structure around the change whole, so that changes go deep.  The
oracle is slower; it judges all that is accepted, and one in SAMPLE of what is refused, as honest content must pass.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # as a script it is not started from the root's package

from tests.fuzz import oracle_recognise  # noqa: E402
from tlspool_common.errors import Code, PoolError  # noqa: E402
from tlspool_common.messages import Side  # noqa: E402
from tlspool_keyd.recognise import recognise_untrusted  # noqa: E402
from tlspool_keyd.schemes import TABLE  # noqa: E402

VECTORS = ROOT / "tests" / "vectors" / "recognise"
SAMPLE = 16
REPORT_EVERY = 20_000
LARGE_B = 12_000
SCHEMES = tuple(int(row.scheme) for row in TABLE)
FRAMES = (b"\3\0\x17\x41\4", b"\3\0\x18\x61\4", b"\3\0\x19\x85\4", b"\3\0\x1d\x20", b"\3\0\x1e\x38")
OCTETS = (0, 1, 2, 3, 4, 5, 6, 0x1F, 0x20, 0x22, 0x30, 0x31, 0x3F, 0x60, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xA0, 0xFF)
LENGTHS = (100, 124, 133, 165, 201)

Seed = tuple[bytes, Side, int]


def load() -> dict[str, list[Seed]]:
    """Return the vectors by what can be done with them."""
    found: dict[str, list[Seed]] = {"short": [], "transcript": [], "refused": []}
    for path in sorted(VECTORS.glob("*/[0-9]*.json")):
        case = json.loads(path.read_text())
        content = path.with_suffix(".bin").read_bytes()
        if len(content) > LARGE_B:
            continue
        seed = content, Side[case["side"].upper()], int(case["scheme"], 16)
        if "why" in case:
            found["refused"].append(seed)
        else:
            found["short" if len(content) < 202 else "transcript"].append(seed)
    return found


class Mutator:
    """Makes mutants, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.seeds = load()
        self.points = {len(content): [] for content, *_ in self.seeds["short"]}
        for content, *_ in self.seeds["short"]:
            self.points[len(content)].append(content[68:])
        self.split = [(messages(content), side, scheme) for content, side, scheme in self.seeds["transcript"]]

    def next(self) -> Seed:
        """Return one mutant."""
        manner = self.chance.random()
        if manner < 0.45:
            content, side, scheme = self.chance.choice(self.seeds["short"])
            content = self._short(content)
        elif manner < 0.8:
            content, side, scheme = self._transcript()
        else:
            content, side, scheme = self.chance.choice(self.seeds["refused"])
            content = self._bend(content) if manner < 0.9 else self._bytes(content)
        if self.chance.random() < 0.03:
            side = self.chance.choice((Side.CLIENT, Side.SERVER))
            scheme = self.chance.choice(SCHEMES) if self.chance.random() < 0.7 else self.chance.getrandbits(16)
        return content, side, scheme

    # --- manners --------------------------------------------------------------------------------------------------

    def _bytes(self, content: bytes) -> bytes:
        """Change anything anywhere."""
        chance = self.chance
        data = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data) + 1)
            manner = chance.randrange(5)
            if manner == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif manner == 1 and at < len(data):
                data[at] = chance.choice(OCTETS)
            elif manner == 2:
                del data[at : at + chance.randint(1, 4)]
            elif manner == 3:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            elif at < len(data):
                data[at] = (data[at] + chance.choice((-1, 1))) & 0xFF
        return bytes(data)

    def _short(self, content: bytes) -> bytes:
        """Change the places that count in a ServerKeyExchange or CertificateVerify, mostly keeping its length."""
        chance = self.chance
        manner = chance.randrange(8)
        if manner == 0:
            return self._bytes(content)
        data = bytearray(content)
        size = len(data)
        if manner == 1:
            head = chance.choice(self.seeds["refused"])[0][: chance.randint(1, 64)]
            data[: len(head)] = head
        elif manner == 2:
            tail = chance.choice(self.seeds["refused"])[0][-chance.randint(1, 20) :]
            data[size - len(tail) :] = tail
        elif manner == 3:
            data[0:3] = bytes((chance.choice((0x30, 0x31, 0x3F, 0x60)), size - 2, chance.choice(OCTETS)))
        elif manner == 4:
            data[68:] = chance.choice(self.points[size])
        elif manner == 5:
            at = chance.choice(
                (0, 1, 2, 3, 64, 65, 66, 67, 68, 69, size - 1, size - 5, size - 6, size - 10, 17, 18, 20)
            )
            data[at] = chance.choice(OCTETS)
        elif manner == 6:
            at = chance.randrange(size)
            data[at] = (data[at] + chance.choice((-1, 1, 0x80))) & 0xFF
        else:
            for _ in range(chance.randint(1, 6)):
                data[chance.randrange(24)] = chance.choice(OCTETS)
        return bytes(data)

    def _bend(self, content: bytes) -> bytes:
        """Give foreign content the length and the frame of a ServerKeyExchange."""
        chance = self.chance
        frame = chance.choice(FRAMES)
        size = 68 + frame[3]
        data = bytearray((content * (1 + size // max(1, len(content))))[:size] if content else bytes(size))
        data[64 : 64 + len(frame)] = frame
        if len(frame) == 5 and chance.random() < 0.8:
            data[64:] = frame[:4] + chance.choice(self.points[size])
        elif len(frame) == 4:
            data[-1] &= 0x7F
        if chance.random() < 0.3:
            data[0:2] = bytes((chance.choice((0x30, 0x31, 0x3F)), size - 2))
        return self._short(bytes(data)) if chance.random() < 0.5 else bytes(data)

    def _transcript(self) -> Seed:
        """Change a message, or their order; lengths around the change are mostly made to fit."""
        chance = self.chance
        parts, side, scheme = chance.choice(self.split)
        manner = chance.randrange(10)
        at = chance.randrange(len(parts))
        if manner == 0:
            return self._bytes(b"".join(header(kind, body) for kind, body in parts)), side, scheme
        parts = list(parts)
        if manner == 1:
            del parts[at]
        elif manner == 2:
            parts.insert(at, chance.choice(parts))
        elif manner == 3:
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif manner == 4:
            others = chance.choice(self.split)[0]
            parts[at] = chance.choice(others)
        elif manner == 5:
            others = chance.choice(self.split)[0]
            parts[at] = (
                parts[at][0],
                next(body for kind, body in others if kind == parts[-1][0] or kind == parts[at][0]),
            )
        elif manner == 6:
            parts[at] = (chance.randrange(25), parts[at][1])
        else:
            body = bytearray(self._bytes(parts[at][1]) if parts[at][1] else b"")
            if manner == 9 and len(body) > 8:
                where = chance.choice((0, 1, 2, 3, 4, 5, len(body) - 1))
                body[where] = (body[where] + chance.choice((-1, 1))) & 0xFF
            parts[at] = (parts[at][0], bytes(body))
        return b"".join(header(kind, body) for kind, body in parts), side, scheme


def messages(content: bytes) -> list[tuple[int, bytes]]:
    """Split a transcript into (type, body)."""
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at + 1 : at + 4], "big")
        found.append((content[at], content[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def header(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def judge(content: bytes, side: Side, scheme: int, always: bool) -> str:
    """Hold one mutant against the invariant; return the shape, or ''.  Raises AssertionError."""
    try:
        found = recognise_untrusted(content, side, scheme).value
    except PoolError as error:
        assert error.code is Code.CONTENT_REFUSED, error
        found = ""
    if found or always:
        expected = oracle_recognise.verdict(content, side.name.lower(), scheme)
        assert found == expected, f"recognised {found!r}, oracle {expected!r}: {side.name} {scheme:#x} {content.hex()}"
    return found


def work(seed: int, runs: int, report: Connection) -> None:
    """Run in a process of its own; send counts, then the number of runs or what went wrong."""
    mutator = Mutator(seed)
    counts: Counter[str] = Counter()
    for number in range(1, runs + 1):
        content, side, scheme = mutator.next()
        try:
            counts[judge(content, side, scheme, number % SAMPLE == 0)] += 1
        except Exception as error:
            report.send(f"{type(error).__name__}: {error}\n{side.name} {scheme:#06x} {content.hex()}")
            return
        if number % REPORT_EVERY == 0 or number == runs:
            report.send((number, dict(counts)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutate what keyd may sign.")
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=5246)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start_s = time.monotonic()
    ends, processes = {}, []
    for number in range(options.processes):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        runs = options.runs // options.processes + (number < options.runs % options.processes)
        process = multiprocessing.Process(target=work, args=(options.seed + number, runs, theirs))
        process.start()
        theirs.close()
        ends[ours] = (0, {})
        processes.append(process)
    waiting, wrong = set(ends), ""
    while waiting and not wrong:
        for end in wait(list(waiting)):
            try:
                said = end.recv()
            except EOFError:
                waiting.discard(end)
                continue
            if isinstance(said, str):
                wrong = said
            else:
                ends[end] = said
        done = sum(number for number, _ in ends.values())
        rate = done / (time.monotonic() - start_s)
        print(f"\r{done:,} of {options.runs:,} mutants, {rate:,.0f}/s ", end="", flush=True)
    for process in processes:
        if wrong:
            process.terminate()
        process.join()
    counts = sum((Counter(counts) for _, counts in ends.values()), Counter())
    accepted = {kind: count for kind, count in sorted(counts.items()) if kind}
    print(f"in {time.monotonic() - start_s:.0f} s; refused {counts['']:,}; accepted {accepted}")
    if not wrong and sum(counts.values()) != options.runs:
        wrong = f"only {sum(counts.values())} mutants were judged"
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
