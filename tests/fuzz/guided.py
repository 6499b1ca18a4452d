"""Run one target under Atheris, in a process of its own: python -m tests.fuzz.guided NAME [options of libFuzzer].

The pool's modules and h11 are instrumented as they are imported, so this must not be imported by anything.
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
        "h11",
    ]
):
    from tests.fuzz import planted
    from tests.fuzz.targets import BY_NAME


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    check = {**BY_NAME, "planted": planted.TARGET}[sys.argv[1]].check
    warnings.simplefilter("ignore")  # the library warns of certificates that it will refuse some day

    def one(data: bytes) -> None:
        check(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
