"""Write the reference pages that are made from tables; with ``--check`` only say whether they are current."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import get_args, get_type_hints

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tlspool_common import access, errors, messages, settings  # noqa: E402
from tlspool_common.codec import Bits, Items  # noqa: E402

_NOTE = "<!-- Made by docs/generate.py from {source}; do not edit. -->\n\n"


def _field_type(hint: object) -> str:
    if hint is bool:
        return "bool"
    base, bound, *_ = get_args(hint)
    if isinstance(bound, Bits):
        kind = "" if base is int else f" ({base.__name__})"
        return f"u{bound.width}{kind}"
    if isinstance(bound, Items):
        return f"at most {bound.count} x {get_args(base)[0].__name__}, {bound.size_b} bytes each"
    return f"{base.__name__}, at most {bound} bytes"


def messages_page() -> str:
    """The border table."""
    out = [
        _NOTE.format(source="tlspool_common/messages.py"),
        f"# Messages between the processes\n\nProtocol number {messages.PROTOCOL}. Everything that is not listed here ",
        "closes the channel it came over. `fds` is the exact number of descriptors.\n\n",
        "| code | message | from | to | fds | when | answer |\n|---|---|---|---|---|---|---|\n",
    ]
    for row in messages.TABLE:
        when = "opens the channel" if row.first else "once" if row.once else ""
        answer = row.answer.__name__ if row.answer else ""
        name = row.message.__name__
        out.append(
            f"| `{row.code:#04x}` | [{name}](#{name.lower()}) | {row.sender} | {row.receiver} | {row.fds} "
            f"| {when} | {answer} |\n"
        )
    for row in messages.TABLE:
        out.append(f"\n## {row.message.__name__}\n\n{_flow(row.message.__doc__ or '')}\n\n")
        out.append("| field | type |\n|---|---|\n")
        hints = get_type_hints(row.message, include_extras=True)
        out += [f"| `{f.name}` | {_field_type(hints[f.name])} |\n" for f in dataclasses.fields(row.message)]  # type: ignore[arg-type]
    return "".join(out)


def _flow(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().split("\n"))


def errors_page() -> str:
    """The error table."""
    heads = {
        1: "Misuse: the caller broke the API",
        2: "Refused: policy or quota",
        3: "Remote fault",
        4: "Remote unverified",
        5: "Key trouble",
        6: "Unavailable",
        7: "Misconfigured",
        9: "Internal",
    }
    out = [
        _NOTE.format(source="tlspool_common/errors.py"),
        "# Errors\n\nA code stands in brackets at the start of what an application reads, and as `code=` in logs. It never ",
        "changes its meaning. Programs that use protocol V2 directly see the com_err number of table `tlsP`.\n",
    ]
    last = 0
    for code, entry in errors.TABLE.items():
        if code // 100 != last:
            last = code // 100
            out.append(
                f"\n## {last}xx {heads[last]}\n\n| code | name | what happened | what to do | com_err |\n|---|---|---|---|---|\n"
            )
        out.append(
            f"| {code.value} | {code.name} | {entry.happened} | {entry.remedy} "
            f"| {entry.com_err.number} {entry.com_err.name} |\n"
        )
    return "".join(out)


def configuration_page() -> str:
    """The settings table."""
    out = [
        _NOTE.format(source="tlspool_common/settings.py"),
        "# Configuration\n\nOne file for all three daemons: `--config FILE`, else the file named by `TLSPOOL_CONFIG_FILE`, ",
        "else `/etc/tlspool.conf`. A line is `keyword`, one space, and the value to the end of the line; lines that start ",
        "with `#` and blank lines count for nothing. Every daemon reads the whole file before it acts, and with `--check` ",
        "only says whether it is right.\n\n| keyword | default | meaning |\n|---|---|---|\n",
    ]
    for option in settings.TABLE:
        value = option.default
        if option.name.endswith("_mode"):
            value = f"{value:04o}"
        if isinstance(value, tuple):
            value = " ".join(value)
        shown = "" if value is None or value == "" else f"`{value}`"
        out.append(f"| `{option.name}` | {shown} | {option.doc} |\n")
    out.append("| `pkcs11_path` | | PKCS #11 library for the `pkcs11_token` lines that follow |\n")
    out.append("| `pkcs11_token` | | URI of tokens to use (RFC 7512), `pkcs11:` for all; may be repeated |\n")
    out.append("| `access` | | a rule, which [access rules](#access-rules) explains; may be repeated |\n")
    out.append(
        "\nThese keywords of earlier pools are read, named in a warning, and have no effect: "
        + ", ".join(f"`{name}`" for name in sorted(settings.IGNORED))
        + ".\n"
    )
    out.append(
        "\n## Several application sockets\n\nEach `socket_name` is one. `socket_mode`, `socket_user` and `socket_group` are for "
        "the `socket_name` lines behind them, until they are set anew; of a single socket they may stand anywhere. The first is "
        "the one that applications find in this file. Sockets that systemd passes (FileDescriptorName `app`) take the place of "
        "all of them.\n"
    )
    out.append(f"\n## Access rules\n\n{(access.__doc__ or '').partition(chr(10))[2].strip(chr(10))}\n")
    return "".join(out)


PAGES = {"messages.md": messages_page, "errors.md": errors_page, "configuration.md": configuration_page}


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path = HERE / name
        text = page()
        if check:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        print(f"not current: {', '.join(stale)}; run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
