"""``tlspool choose``: choose at this terminal who clients of this user are, until interrupted.

Shows what the disclose database says already, and takes a number of that list, an identity, or nothing.  Only
sessions of the same user are asked about, unless the setting ``choice_services`` names this user.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import libstub
from tlspool_admin.ending import heard
from tlspool_admin.options import common
from tlspool_admin.table import clean
from tlspool_common import settings
from tlspool_common.errors import PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.servicewire import ChoiceFlag

_SKIP = {
    "never": 0,
    "stored": int(ChoiceFlag.SKIP_DBENTRY),
    "domain": int(ChoiceFlag.SKIP_DOMAIN_SAME | ChoiceFlag.SKIP_DOMAIN_ONEUP),
    "exact": int(ChoiceFlag.SKIP_USER | ChoiceFlag.SKIP_DOMAIN_SAME),
}

_MORE = """\
Each time a client of this user needs an identity, this shows who wants it, for whom, and what the database has, and
asks.  With --skip the database is used without asking: stored, whatever it has; domain, what it has for the domain of
the remote or the one above; exact, what it has for the remote itself."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "choose the identities of clients"
    parser = subparsers.add_parser("choose", parents=[common()], help=text, description=f"{text}.  {_MORE}")
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="for an answer (default: %(default)s)")
    parser.add_argument("--skip", choices=sorted(_SKIP), default="never", help="when not to ask (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask until SIGTERM, Ctrl-C, the end of the input or of the pool."""
    config = settings.load(getattr(args, "config", None) or settings.default_path())
    try:
        with (
            libstub.LocalidService(
                choose, pool=config.socket_name, timeout_s=args.timeout, skip=_SKIP[args.skip]
            ) as service,
            heard((signal.SIGTERM,), sys.exit, service.wakeup_fd),
        ):
            print("waiting until an identity is needed; end with Ctrl-C", flush=True)
            service.run()
    except libstub.PoolError as error:
        print(f"tlspool: {clean(str(error))}", file=sys.stderr)
        return 1
    except EOFError:
        print("the input has ended", file=sys.stderr)
    return 0


def choose(question: libstub.LocalidQuestion) -> libstub.LocalidChoice:
    """Show a question at the terminal, and take the answer."""
    print(describe(question, time.time()), flush=True)  # noqa: TID251 - the deadline is a UNIX time
    localid = _take_identity(question)
    if not localid or localid in [entry.localid for entry in question.entries]:
        return libstub.LocalidChoice(localid)
    store = _ask("remember it? no, first or last", ("no", "first", "last"))
    if store == "no":
        return libstub.LocalidChoice(localid)
    for number, selector in enumerate(question.selectors, 1):
        print(f"  {number}  {clean(selector)}", flush=True)
    numbers = [str(number) for number in range(1, len(question.selectors) + 1)]
    selector = question.selectors[int(_ask("for whom? a number", numbers)) - 1]
    return libstub.LocalidChoice(localid, "first" if store == "first" else "last", selector)


def describe(question: libstub.LocalidQuestion, now_s: float) -> str:
    """Return a question as lines for people."""
    who = question.program or "a program"
    service = f", service {question.service}" if question.service else ""
    user = f" of user {question.uid}" if question.uid >= 0 else ""
    lines = [f"{clean(who)}{user}{clean(service)} needs an identity for {clean(question.remoteid)}"]
    lines.append(f"within {max(0, int(question.deadline_s - now_s))} s")
    if question.suggestion:
        lines.append(f"it suggests {clean(question.suggestion)}")
    if question.entries:
        lines.append(f"disclosed to {clean(question.entries[0].selector)}:")
    lines += [f"  {number}  {clean(entry.localid)}" for number, entry in enumerate(question.entries, 1)]
    return "\n".join(lines)


def _take_identity(question: libstub.LocalidQuestion) -> str:
    while True:
        text = input("number, identity, or nothing for nobody: ").strip()
        if text.isascii() and text.isdigit():
            if 1 <= int(text) <= len(question.entries):
                return question.entries[int(text) - 1].localid
            print("there is no such number", flush=True)
            continue
        try:
            return str(parse_untrusted(text)) if text else ""
        except PoolError as error:
            print(clean(error.detail), flush=True)


def _ask(prompt: str, words: Sequence[str]) -> str:
    """Ask until the answer is one of these words; nothing is the first one."""
    while True:
        text = input(f"{prompt} [{words[0]}]: ").strip() or words[0]
        if text in words:
            return text
        print(f"one of {', '.join(words)}", flush=True)
