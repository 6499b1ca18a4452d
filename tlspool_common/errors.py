"""Errors of the pool: one table of stable codes, one exception.

A code is what crosses a border and what an application, a log or a script may rely on; it never changes
its meaning and is never used again.  The exception carries a code and the detail of this one case.

    PoolError                  codes
    * misuse                   1xx   the caller broke the API
    * refused                  2xx   policy or quota
    * remote fault             3xx   alert, bad record, closed early, timeout
    * remote unverified        4xx   chain, name, dates, purpose
    * key trouble              5xx   token gone, PIN, key not found, content not recognised
    * unavailable              6xx   a daemon is down, or stopping
    * misconfigured            7xx   carries the setting, its value and the remedy
    * internal                 9xx   a bug

Programs that speak protocol V2 see the com_err number of table ``tlsP`` (upstream's); ``com_err`` maps to it.
docs/errors.md is generated from this table.
"""

from __future__ import annotations

from tlspool_common.error_codes import COM_ERR_BASE as COM_ERR_BASE
from tlspool_common.error_codes import Code as Code
from tlspool_common.error_codes import ComErr as ComErr
from tlspool_common.error_table import TABLE as TABLE
from tlspool_common.error_table import Entry as Entry


class PoolError(Exception):
    """A code and what happened this time; ``str`` is one line that a person can act on."""

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def category(self) -> int:
        """The first digit of the code."""
        return self.code // 100

    def __str__(self) -> str:
        entry = TABLE[self.code]
        detail = f": {self.detail}" if self.detail else ""
        return f"[{self.code.value}] {entry.happened}{detail}; {entry.remedy}"


def com_err(code: Code) -> int:
    """Return the V2 error number for a code."""
    return TABLE[code].com_err.number


def app_text(code: Code, detail: str = "") -> str:
    """Return what an application reads in ERROR.message: at most 127 bytes, code first, nothing secret."""
    entry = TABLE[code]
    text = f"[{code.value}] {entry.happened}" + (f": {detail}" if detail else "")
    full = f"{text}; {entry.remedy}"
    chosen = full if len(full.encode()) <= 127 else text
    return chosen.encode()[:127].decode(errors="ignore")


def code_of(number: int) -> Code:
    """Return the code for a number that crossed a border; an unknown one is INTERNAL."""
    try:
        return Code(number)
    except ValueError:
        return Code.INTERNAL
