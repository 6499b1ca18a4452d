"""Targets in C, for libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer; each has its invariants on top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.native import NATIVE, ROOT, compile_c

FLAGS = ("-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", f"-I{NATIVE}")


@dataclass(frozen=True)
class Native:
    """A harness; its seeds are files."""

    name: str
    harness: str
    sources: tuple[str, ...]
    corpus: str
    tokens: tuple[bytes, ...] = ()
    most_b: int = 4096

    def build(self, directory: Path) -> Path:
        """Compile it; clang must be there."""
        sources = (ROOT / "tests" / "fuzz" / self.harness, *(NATIVE / source for source in self.sources))
        return compile_c(directory / self.name, *sources, compiler="clang", flags=FLAGS)

    def seeds(self) -> Iterable[bytes]:
        """Return what to begin with."""
        directory = Path(__file__).with_name("corpus") / self.corpus
        return [path.read_bytes() for path in sorted(directory.iterdir())]


TARGETS = (
    Native(
        "c-provider",
        "fuzz_provider.c",
        ("reference.c", "signer.c"),
        "provider",
        (
            b"-----BEGIN TLSPOOL KEY REFERENCE-----\n",
            b"-----END TLSPOOL KEY REFERENCE-----\n",
            b"D\x30\x82",
            b"S\0\x31",
        ),
        6000,
    ),
    Native("c-relay", "fuzz_relay.c", ("relay.c",), "relay", (), 200),
)

ELSEWHERE = {"key_make_untrusted": "calls reference_parse_untrusted and keeps what that accepts"}
"""Functions that no harness calls, each with a reason."""
