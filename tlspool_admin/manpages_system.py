"""Manual pages that are not of commands: ``tlspool.conf(5)``, the daemons (8), and the tools of earlier pools (1)."""

from __future__ import annotations

import argparse

from tlspool_admin import configuration_text, legacy, roff
from tlspool_admin.manpages import CONFIGURATION
from tlspool_admin.roff import Rows
from tlspool_admin.tree import tree
from tlspool_common import setting_table
from tlspool_common.setting_option import Part
from tlspool_worker.exits import Exit, meaning

_WHO = {Part.BROKER.value: "broker", Part.WORKER.value: "worker", Part.KEYD.value: "keyd"}

EXAMPLE = """\
pkcs11_path /usr/lib/softhsm/libsofthsm2.so
pkcs11_token pkcs11:token=tlspool
tls_policy modern
audit_dir /var/log/tlspool
access mail allow unit=postfix.service role=server localid=mail.example.com
access rest allow role=client"""
"""A configuration for the page; it is one that can be read."""


def configuration() -> str:
    """Return ``tlspool.conf(5)``."""
    out = roff.head("tlspool.conf", 5, "configuration of the TLS pool's daemons")
    out += [".SH DESCRIPTION", *roff.marked(configuration_text.FILE)]
    out += [".PP", *roff.marked("Who needs a setting stands in brackets. Where it says at start, a new value "
                                "counts for that daemon when it is started again.")]  # fmt: skip
    out += [".SH SETTINGS"]
    for option in setting_table.TABLE:
        value = "" if option.default is None else option.kind.show(option.default)
        default = f"Default: `{value}`." if value else ""
        out += _setting(option.name, option.kind.what, f"{option.doc}. {default}", option.parts, option.restart)
    for row in setting_table.REPEATED.values():
        out += _setting(row.name, row.what, f"{row.doc}; may be repeated.", row.parts, row.restart)
    out += [".PP", *roff.marked(configuration_text.SPELLINGS)]
    sections = (
        ("Reading it again", configuration_text.AGAIN),
        ("Several application sockets", configuration_text.SOCKETS),
        *configuration_text.RULES,
    )
    for title, said in sections:
        out += [f".SH {title.upper()}", *roff.paragraphs(said)]
    out += [".SH KEYWORDS OF EARLIER POOLS"]
    out += roff.marked("These are read, and checked, and have no effect; a warning says what to use instead.")
    for unused in sorted(setting_table.UNUSED.values(), key=lambda one: one.name):
        out += [".TP", f".B {roff.plain(unused.name)}", *roff.marked(f"{unused.instead}.")]
    out += [".PP", *roff.marked(configuration_text.EARLIER)]
    out += [".SH EXAMPLE", ".nf", *map(roff.plain, EXAMPLE.split("\n")), ".fi"]
    out += roff.see_also([("tlspool-check", 1), ("tlspool-config", 1), ("tlspool-reload", 1), *_DAEMON_PAGES])
    return "\n".join(out) + "\n"


def _setting(name: str, what: str, said: str, parts: str, restart: str) -> list[str]:
    who = ", ".join(f"{_WHO[letter]} at start" if letter in restart else _WHO[letter] for letter in parts)
    return [".TP", f"\\fB{roff.plain(name)}\\fR \\fI{roff.plain(what)}\\fR", *roff.marked(f"({who}) {said}")]


_DAEMON_PAGES = (("tlspool-broker", 8), ("tlspool-worker", 8), ("tlspool-keyd", 8))

_ABOUT = {
    "tlspool-broker": (
        "takes requests of applications, and decides",
        "Takes the requests of applications, decides by policy and databases, and hands their sockets to workers. It "
        "holds no key and speaks no TLS. It starts the helpers tlspool-online and tlspool-radius when they are needed.",
    ),
    "tlspool-worker": (
        "speaks TLS for applications",
        "The master of the workers, which it forks from an image that is warm. A worker does the handshakes of one "
        "application and relays its sessions. It opens no socket and no file, and has signatures made by keyd.",
    ),
    "tlspool-keyd": (
        "signs with the keys of PKCS #11 tokens",
        "The only one that knows a PIN. It signs what the broker has granted to a worker, and nothing that is not what "
        "TLS signs in a handshake. With a terminal, and without a PIN file or credential, it asks for the PIN.",
    ),
}
_SIGNALS: dict[str, Rows] = {
    "tlspool-broker": (
        ("SIGTERM, SIGINT", "end; sessions that relay go on, and the next broker finds them"),
        ("SIGHUP", "read the configuration again"),
    ),
    "tlspool-worker": (
        ("SIGTERM, SIGINT", "end; workers finish their sessions first"),
        ("SIGHUP", "read the configuration again"),
    ),
    "tlspool-keyd": (
        ("SIGTERM, SIGINT", "end; sessions that relay need it no more, and handshakes wait for the next one"),
        ("SIGHUP", "read the configuration again, and try again what a wrong PIN has stopped"),
    ),
}
_STATUS: dict[str, Rows] = {
    "tlspool-broker": (
        ("0", "it was told to end; with --check: the configuration is right"),
        ("1", "something else is in the way, such as another broker; standard error says what"),
        ("2", "bad usage"),
        ("78", "the configuration is wrong; systemd does not try again"),
    ),
    "tlspool-worker": (
        ("0", "it was told to end; with --check: all is well"),
        ("2", "bad usage"),
        *((str(one.value), meaning(one)) for one in (Exit.PROVIDER, Exit.CONFIGURATION)),
    ),
    "tlspool-keyd": (
        ("0", "it was told to end; with --check: the configuration is right"),
        ("2", "bad usage"),
        ("78", "it cannot start: the configuration, the PIN's file or the sandbox is why; systemd does not try again"),
    ),
}
_ENVIRONMENT: Rows = (
    CONFIGURATION,
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "sockets that systemd passes"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "where it says that it is ready, reloads, is alive, and ends"),
)
_CREDENTIALS = ("CREDENTIALS_DIRECTORY", "where a credential pkcs11-pin is the PIN")
_CONTROL = "control socket: a line with a word, such as status or help, and an answer in JSON"
_FILES: dict[str, Rows] = {
    "tlspool-broker": (
        ("/run/tlspool/tlspool.sock, /run/tlspool.sock", "where applications connect"),
        ("/run/tlspool/broker.sock", _CONTROL),
        ("/var/lib/tlspool/db", "databases"),
    ),
    "tlspool-worker": (("/run/tlspool/worker.sock", _CONTROL),),
    "tlspool-keyd": (
        ("/run/tlspool/keyd.sock", _CONTROL),
        ("/run/tlspool/pin.sock", "where programs register that ask people for a PIN"),
    ),
}


def daemon(parser: argparse.ArgumentParser) -> str:
    """Return the page of a daemon, from its parser."""
    name = parser.prog
    short, about = _ABOUT[name]
    environment = (*_ENVIRONMENT, _CREDENTIALS) if name == "tlspool-keyd" else _ENVIRONMENT
    others = [page for page in _DAEMON_PAGES if page[0] != name]
    out = [
        *roff.head(name, 8, short),
        ".SH SYNOPSIS",
        f".B {roff.plain(name)}",
        "[OPTIONS]",
        ".SH DESCRIPTION",
        *roff.text(about),
        *roff.text("It stays in the foreground, logs to standard error, and gives up what it does not need before it "
                   "reads anything of anybody."),
        ".SH OPTIONS",
        *roff.options(tree(parser).options),
        *roff.rows("SIGNALS", _SIGNALS[name]),
        *roff.rows("EXIT STATUS", _STATUS[name]),
        *roff.rows("ENVIRONMENT", environment),
        *roff.rows("FILES", _FILES[name]),
        *roff.see_also([*others, ("tlspool", 1), ("tlspool.conf", 5)]),
    ]  # fmt: skip
    return "\n".join(out) + "\n"


def earlier(name: str, tool: legacy.Words) -> str:
    """Return the page of a tool of earlier pools."""
    out = roff.head(name, 1, "tool of earlier TLS pools")
    out += [".SH SYNOPSIS", f".B {roff.plain(name)}", roff.plain(tool.usage)]
    out += [".SH DESCRIPTION"]
    out += roff.marked("Its name and the order of its arguments are those of earlier pools. It does what "
                       f"`tlspool {tool.now}` does, so it checks, is recorded, and can be undone like that. "
                       "CONF is a configuration.")  # fmt: skip
    if name.endswith("-set"):
        out += roff.text("Without what stands last, nothing is left of what is named: it is deleted.")
    out += roff.rows("EXIT STATUS", (("0", "done"), ("1", "anything else, bad usage too")))
    out += roff.see_also([(f"tlspool-{tool.now}", 1)])
    return "\n".join(out) + "\n"


def pages(daemons: list[argparse.ArgumentParser]) -> dict[str, str]:
    """Return all pages by the names of their files; ``daemons`` are the parsers of the three."""
    return {
        "tlspool.conf.5": configuration(),
        **{f"{parser.prog}.8": daemon(parser) for parser in daemons},
        **{f"{name}.1": earlier(name, tool) for name, tool in legacy.TOOLS.items()},
    }
