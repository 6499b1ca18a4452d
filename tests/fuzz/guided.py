"""Run one target under Atheris, in a process of its own: python -m tests.fuzz.guided NAME [options of libFuzzer].

The pool's modules are instrumented as they are imported, so this must not be imported by anything.
"""

from __future__ import annotations

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


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    check = TARGET.check
    warnings.simplefilter("ignore")  # the library warns of certificates that it will refuse some day

    def one(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
