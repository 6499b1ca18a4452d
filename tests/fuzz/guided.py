"""Run one target under Atheris, in a process of its own: python -m tests.fuzz.guided NAME [options of libFuzzer].

The pool's modules are instrumented as they are imported, so this must not be imported by anything.
"""

from __future__ import annotations

import random
import sys
import warnings

import atheris

with atheris.instrument_imports(
    include=[
        "tlspool_common",
        "tlspool_broker",
        "tlspool_worker",
        "tlspool_keyd",
        "tlspool_online",
        "tlspool_admin",
        "libstub",
    ]
):
    if sys.argv[1] == "planted":
        from tests.fuzz.planted import TARGET
    else:
        from tests.fuzz.targets import BY_NAME

        TARGET = BY_NAME[sys.argv[1]]

from tests.fuzz.der import MANNERS
from tests.fuzz.target import SMALL, inside_der


def mutate(data: bytes, most_b: int, seed: int) -> bytes:
    """Change what is DER in a way that leaves it DER, every other time."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return atheris.Mutate(data, most_b)
    pieces = [*TARGET.tokens, *SMALL, chance.randbytes(chance.randint(1, 4))]
    edits = [
        (chance.choice(MANNERS), chance.getrandbits(20), chance.getrandbits(8), chance.choice(pieces))
        for _ in range(chance.randint(1, 3))
    ]
    return inside_der(TARGET, data, edits)[:most_b]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    warnings.simplefilter("ignore")  # the library warns of certificates that it will refuse some day
    check = TARGET.check
    special = {} if TARGET.der is None else {"custom_mutator": mutate}

    def one(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one, **special)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
