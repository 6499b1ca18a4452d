"""Which functions named ``*_untrusted`` there are, and which of them the seeds of the targets reach."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

from tests.fuzz.target import Target, seeds_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("libstub", *sorted(path.name for path in ROOT.glob("tlspool_*") if path.is_dir()))
_IN_C = re.compile(r"^[a-z].*?\b(\w+_untrusted)\(", re.MULTILINE)


@cache
def declared() -> frozenset[str]:
    """Return ``path:qualified name`` of each function in Python."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            _collect(ast.parse(path.read_text()), f"{path.relative_to(ROOT)}:", found)
    return frozenset(found)


def _collect(node: ast.AST, prefix: str, found: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.endswith("_untrusted"):
                found.add(prefix + child.name)
            _collect(child, f"{prefix}{child.name}.<locals>.", found)
        elif isinstance(child, ast.ClassDef):
            _collect(child, f"{prefix}{child.name}.", found)
        else:
            _collect(child, prefix, found)


def declared_in_c() -> set[str]:
    """Return the functions in C."""
    return {
        name for path in (ROOT / "tlspool_worker" / "native").glob("*.[ch]") for name in _IN_C.findall(path.read_text())
    }


def reached(targets: Iterable[Target]) -> set[str]:
    """Hold all seeds against their targets, and return which functions were called."""
    codes: set[CodeType] = set()

    def called(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name.endswith("_untrusted"):
            codes.add(frame.f_code)

    _forget()
    pairs = [(target.check, seed) for target in targets for seed in seeds_of(target)]
    before = sys.getprofile()
    sys.setprofile(called)
    try:
        for check, seed in pairs:
            check(seed)
    finally:
        sys.setprofile(before)
    root = f"{ROOT}/"
    return {f"{code.co_filename.removeprefix(root)}:{code.co_qualname}" for code in codes}


def _forget() -> None:
    """Empty all caches: what was read in an earlier test must be read again."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES:
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
