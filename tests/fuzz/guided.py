"""Run one target under Atheris, in a process of its own: python -m tests.fuzz.guided MODULE NAME [options].

The pool's modules are instrumented as they are imported, so this must not be imported by anything; and only the module
of the target is imported, for it takes seconds.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path

import atheris

from tests.fuzz import traced
from tests.fuzz.der import MANNERS
from tests.fuzz.target import SMALL, inside_der

traced.prepare()
with atheris.instrument_imports(
    include=[
        "tlspool_common",
        "tlspool_broker",
        "tlspool_worker",
        "tlspool_keyd",
        "tlspool_online",
        "tlspool_radius",
        "tlspool_admin",
        "libstub",
    ]
):
    TARGET = next(each for each in import_module(sys.argv[1]).TARGETS if each.name == sys.argv[2])

_PIECES = (*TARGET.tokens, *SMALL)


def mutate(data: bytes, most_b: int, seed: int) -> bytes:
    """Change what is DER in a way that leaves it DER, every other time."""
    if seed & 1:
        return atheris.Mutate(data, most_b)
    # The same input again from the same seed, by a generator that begins faster than random.Random.
    drawn = int.from_bytes(hashlib.blake2b(seed.to_bytes(8), digest_size=48).digest())
    edits = []
    for _ in range(1 + (drawn & 0xFF) % 3):
        drawn >>= 96
        which = (drawn >> 40 & 0xFFFF) % (len(_PIECES) + 1)
        piece = (
            _PIECES[which] if which < len(_PIECES) else (drawn >> 64 & 0xFFFFFFFF).to_bytes(4)[: 1 + (drawn >> 56 & 3)]
        )
        edits.append((MANNERS[(drawn >> 28 & 0xFFF) % len(MANNERS)], drawn & 0xFFFFF, drawn >> 20 & 0xFF, piece))
    return inside_der(TARGET, data, edits)[:most_b]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    warnings.simplefilter("ignore")  # the library warns of certificates that it will refuse some day
    check = TARGET.check
    special = {} if TARGET.der is None else {"custom_mutator": mutate}

    found = next(each.partition("=")[2] for each in sys.argv if each.startswith("-artifact_prefix="))

    def one(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            # libFuzzer does the same under the same name, but not where a custom mutator is in the way.
            path = Path(f"{found}crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}")
            path.write_bytes(data)
            traceback.print_exc()  # before the line that long.py waits for: it shows what was said until then
            print(f"Test unit written to {path}", file=sys.stderr, flush=True)
            raise

    atheris.Setup([sys.argv[0], *sys.argv[3:]], one, **special)
    traced.start()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
