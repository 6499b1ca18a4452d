"""The tools of earlier pools: their names and the order of their arguments, and what they are documented to do.

They are the operations of ``tlspool``, so they check, are recorded, and can be undone like those.  As before,
everything that goes wrong, bad usage too, is exit status 1.  What differs on purpose is in docs/command.md.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tlspool_admin import ending, files, where
from tlspool_admin.operations import operate
from tlspool_admin.table import clean, objects, print_warnings, texts, words
from tlspool_common.errors import Code, PoolError

_TYPES = frozenset(("x509", "pgp", "srp", "kerberos", "valexp"))
_SAME = {"x.509": "x509", "openpgp": "pgp", "krb5": "kerberos", "cli": "client", "srv": "server"}

Tool = Callable[[argparse.Namespace, Sequence[str]], int]


class Words(NamedTuple):
    """What follows the name of a tool, and the command that does it now."""

    usage: str
    now: str


TOOLS = {
    "tlspool-localid-set": Words("CONF [user@]fqdn FLAGS [P11URI PUBFILE]...", "localid"),  # no pair: delete
    "tlspool-localid-get": Words("CONF [user@]fqdn FLAGS [OUTFILE]", "localid"),
    "tlspool-disclose-set": Words("CONF SELECTOR [[user@]fqdn]...", "disclose"),  # no identity: delete
    "tlspool-disclose-get": Words("CONF SELECTOR", "disclose"),
    "tlspool-trust-set": Words("CONF FLAGS HEXKEY VALEXP [INFILE]", "trust"),  # no file: delete
    "tlspool-trust-get": Words("CONF FLAGS HEXKEY [OUTFILE]", "trust"),
    "tlspool-db-have": Words("CONF", "disclose"),
    "tlspool-configvar": Words("[-c CONF] VAR...", "config"),
}


def _main(name: str, least: int, most: int | None, tool: Tool, argv: Sequence[str] | None) -> int:
    """Run a tool whose first argument is the configuration."""
    usage = f"usage: {name} {TOOLS[name].usage}"
    given = sys.argv[1:] if argv is None else list(argv)
    if any(word in ("-h", "--help") for word in given[:1]):
        print(usage)
        return 0
    if len(given) < least or (most is not None and len(given) > most):
        print(usage, file=sys.stderr)
        return 1
    args = argparse.Namespace(config=Path(given[0]), json=False)
    return ending.end(lambda: tool(args, given[1:]), lambda text, _: print(f"{name}: {clean(text)}", file=sys.stderr))


def _kind(flags: str, *, bits: Sequence[str] = ()) -> set[str]:
    """Return what makes records the same kind: the word for their type, and some bits."""
    given = {_SAME.get(word.strip().lower(), word.strip().lower()) for word in flags.split(",")}
    return {word for word in given if word in _TYPES or word in bits}


# --- localid ------------------------------------------------------------------------------------------


def localid_set(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-localid-set``."""
    return _main("tlspool-localid-set", 3, None, _localid_set, argv)


def _localid_set(args: argparse.Namespace, given: Sequence[str]) -> int:
    identity, flags, *pairs = given
    if len(pairs) % 2:
        raise PoolError(Code.FIELD_MALFORMED, "give a PUBFILE behind each P11URI (for valexp: /dev/null)")
    if not pairs:
        answer = operate(args, "localid.del", id=identity, flags=flags)
        print_warnings(answer)
        return 0
    is_expression = "valexp" in _kind(flags)
    records = []
    for uri, name in zip(pairs[::2], pairs[1::2], strict=True):
        empty = is_expression and not Path(name).read_bytes()
        records.append({"uri": uri, "chain": [] if empty else files.certificates_of(Path(name))})
    print_warnings(operate(args, "localid.set", id=identity, flags=flags, records=records))
    return 0


def localid_get(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-localid-get``."""
    return _main("tlspool-localid-get", 3, 4, _localid_get, argv)


def _localid_get(args: argparse.Namespace, given: Sequence[str]) -> int:
    answer = operate(args, "localid.get", id=given[0])
    print_warnings(answer)
    kind = _kind(given[1])
    found = [one for one in objects(answer.get("records")) if kind <= set(texts(one.get("flags")))]
    for record in found:
        uri = record.get("uri", record.get("expression"))
        print(f"{words(record.get('flags'))} {clean(uri)} {clean(record.get('credential_b'))} bytes")
    if found and len(given) == 3:
        chain = [_binary(one.get("der")) for one in objects(found[0].get("chain"))]
        Path(given[2]).write_bytes(b"".join(chain))
    return 0 if found else 1


def _binary(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error:
        raise PoolError(Code.RECORD_MALFORMED, "the broker's answer is no base64") from None


# --- disclose -----------------------------------------------------------------------------------------


def disclose_set(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-disclose-set``."""
    return _main("tlspool-disclose-set", 2, None, _disclose_set, argv)


def _disclose_set(args: argparse.Namespace, given: Sequence[str]) -> int:
    if len(given) > 1:
        print_warnings(operate(args, "disclose.set", selector=given[0], ids=list(given[1:])))
    else:
        operate(args, "disclose.del", selector=given[0])
    return 0


def disclose_get(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-disclose-get``."""
    return _main("tlspool-disclose-get", 2, 2, _disclose_get, argv)


def _disclose_get(args: argparse.Namespace, given: Sequence[str]) -> int:
    answer = operate(args, "disclose.get", selector=given[0])
    print_warnings(answer)
    for step in objects(answer.get("walk")):
        print(f"{clean(step.get('selector'))}: {'present' if step.get('present') else 'absent'}")
    ids = texts(answer.get("ids"))
    for identity in ids:
        print(clean(identity))
    return 0 if ids else 1


# --- trust --------------------------------------------------------------------------------------------


def trust_set(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-trust-set``."""
    return _main("tlspool-trust-set", 4, 5, _trust_set, argv)


def _trust_set(args: argparse.Namespace, given: Sequence[str]) -> int:
    flags, key, expression = given[:3]
    if len(given) == 3:
        print_warnings(operate(args, "trust.del", key=key, flags=flags))
        return 0
    path = Path(given[3])
    if _kind(flags, bits=("revoke", "pinned")) & {"revoke", "pinned"}:
        data: object = base64.b64encode(path.read_bytes()).decode()
    else:
        data = files.certificates_of(path)
    print_warnings(operate(args, "trust.set", flags=flags, key=key, valexp=expression, data=data))
    return 0


def trust_get(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-trust-get``."""
    return _main("tlspool-trust-get", 3, 4, _trust_get, argv)


def _trust_get(args: argparse.Namespace, given: Sequence[str]) -> int:
    answer = operate(args, "trust.get", key=given[1])
    print_warnings(answer)
    bits = {"revoke", "pinned"}
    kind = _kind(given[0], bits=tuple(bits))
    found = []
    for one in objects(answer.get("records")):
        flags = set(texts(one.get("flags")))
        if kind <= flags and kind & bits == flags & bits:
            found.append(one)
    for record in found:
        data = _binary(record.get("data"))
        print(f"{words(record.get('flags'))} {clean(record.get('valexp'))} {len(data)} bytes")
    if found and len(given) == 3:
        Path(given[2]).write_bytes(_binary(found[0].get("data")))
    return 0 if found else 1


# --- the rest -----------------------------------------------------------------------------------------


def db_have(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-db-have``."""
    return _main("tlspool-db-have", 1, 1, _db_have, argv)


def _db_have(args: argparse.Namespace, _given: Sequence[str]) -> int:
    operate(args, "disclose.list")  # whoever answers has opened them, or made them
    return 0


def configvar(argv: Sequence[str] | None = None) -> int:
    """Run ``tlspool-configvar``."""
    given = sys.argv[1:] if argv is None else list(argv)
    path: Path | None = None
    if given[:1] == ["-c"] and len(given) > 1:
        path, given = Path(given[1]), given[2:]
    if not given or given[0].startswith("-"):
        print(f"usage: tlspool-configvar {TOOLS['tlspool-configvar'].usage}", file=sys.stderr)
        return 1
    path = where.config_path(path)
    try:
        values = where.values_untrusted(where.read(path))
    except OSError as error:
        print(f"tlspool-configvar: {clean(str(path))}: {error.strerror}", file=sys.stderr)
        return 1
    code = 0
    for name in given:
        if name in values:
            print(clean(values[name]))
        else:
            print(f"tlspool-configvar: {clean(name)} is not in {clean(str(path))}", file=sys.stderr)
            code = 1
    return code
