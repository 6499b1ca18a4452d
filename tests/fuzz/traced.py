"""Let Atheris instrument with less: at a branch, and around a comparison, an object of trace.c is met.

What Atheris does itself is to call a function of its own at each of them.  With the bytecode that this takes, and the
way the call takes into C++, instrumented code was two and a half times as slow as code that is not.

Only for CPython 3.11, whose bytecode this is; with others Atheris does all by itself.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from atheris import core_with_libfuzzer, instrument_bytecode

from tests.fixtures.native import shared

IS_FOR_US = sys.version_info[:2] == (3, 11)


def _made() -> ModuleType:
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        headers = sysconfig.get_path("include")
        made = shared(Path(scratch) / "trace.so", Path(__file__).with_name("trace.c"), flags=("-O2", f"-I{headers}"))
        return module_from_spec(spec_from_file_location("trace", made, loader=ExtensionFileLoader("trace", str(made))))


_TRACE = _made() if IS_FOR_US else None


class _Instrumentor(instrument_bytecode.Instrumentor):
    def _generate_trace_branch_invocation(self, at):
        return self._instructions(
            at, ("LOAD_CONST", self._get_const(_TRACE.Branch())), ("UNARY_POSITIVE", None), ("POP_TOP", None)
        )

    def _generate_cmp_invocation(self, operator, at, coerce_to_bool):
        return self._comparison(operator, at, has_constant=False)

    def _generate_const_cmp_invocation(self, operator, at, switch, coerce_to_bool):
        return self._comparison(operator, at, has_constant=True)

    def _comparison(self, operator, at, *, has_constant):
        """In place of COMPARE_OP: left, right -> comparison, (left, right) -> comparison[left, right]."""
        met = self._get_const(_TRACE.Comparison(operator, has_constant))
        return self._instructions(at, ("BUILD_TUPLE", 2), ("LOAD_CONST", met), ("SWAP", 2), ("BINARY_SUBSCR", None))

    def _instructions(self, at, *which):
        return [instrument_bytecode._generate_instruction(name, argument, at) for name, argument in which]


def prepare() -> None:
    """To be called before anything is instrumented."""
    if IS_FOR_US:
        instrument_bytecode.Instrumentor = _Instrumentor


def start() -> None:
    """To be called when all is instrumented, and before the first input."""
    if IS_FOR_US:
        _TRACE.start(core_with_libfuzzer.__file__)
