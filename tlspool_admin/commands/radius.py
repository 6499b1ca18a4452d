"""``tlspool radius status|test|spool``: the RADIUS servers, what they say of a remote, and what waits for them."""

from __future__ import annotations

import argparse
import getpass
import pwd
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tlspool_admin.catalog import help_of
from tlspool_admin.options import ask_broker, author, common, control_socket, number
from tlspool_admin.progress import Progress
from tlspool_admin.table import clean, objects, paint, print_json, print_warnings, show, table, texts, warn
from tlspool_common.errors import Code, PoolError

_TEST = """\
Asks the servers about a remote what a session of its would be asked: the same rule, servers, secrets and attributes.
Exit status: 0 all have accepted, 1 one has not, or nobody has answered.  Nothing is let in, and nothing is accounted
for.  Without --purpose the servers of radius_authn and of radius_authz are asked.  What is about a handshake, or the
remote's network address, is left out."""
_SPOOL = """\
Records of accounting wait on the disk until their server has acknowledged them.  --follow shows how far it is until
none waits any more, or Ctrl-C; --retry sends what waits at once, to servers that were given up for dead too."""
_COLOURS = {"accepted": "green", "rejected": "red", "unanswered": "yellow", "unasked": "yellow"}
_FIRST = ("purpose", "server", "state", "rtt_ms", "asked")
"""Columns that come first, and always."""

_FOLLOW_S = 1.0
"""Between two looks: a server takes hundreds of records a second."""

_QUIET_S = 5.0
"""Between two lines where standard error is no terminal."""

_TIMEOUT_S = 150.0
"""radius_wait_s is at most a minute, and there are two questions."""

_PASSWORD_CHARACTERS = 128
DOWN = ("dead", "no-secret")
"""States of a server that is not asked."""

_PAGE = 50


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("radius", parents=[common()], help=help_of("radius"))
    actions = parser.add_subparsers(required=True, metavar="status|test|spool")
    one = actions.add_parser("status", parents=[common()], help="how the servers are, and the helper that asks them")
    one.set_defaults(run=run_status)
    one = actions.add_parser("test", parents=[common()], help="ask about a remote", description=_TEST)
    one.add_argument("remote", metavar="USER@DOMAIN", help="the remote identity; or a domain")
    one.add_argument("--purpose", choices=("authn", "authz", "both"), default="both", help="which servers to ask")
    one.add_argument("--service", metavar="NAME", default="", help="IANA service name, as the application gives it")
    one.add_argument("--localid", metavar="ID", default="", help="our identity that the remote would speak to")
    one.add_argument("--user", metavar="USER", default="", help="whose program it would be (default: you)")
    one.add_argument("--unit", metavar="UNIT", default="", help="its systemd unit")
    roles = one.add_mutually_exclusive_group()
    roles.add_argument("--client", action="store_true", help="we would be the client")
    roles.add_argument("--server", action="store_true", help="we would be the server (the default)")
    one.add_argument(
        "--password-prompt", action="store_true", help="ask for a password, as of an application's authenticate"
    )
    one.set_defaults(run=run_test)
    one = actions.add_parser("spool", parents=[common()], help="accounting records that wait", description=_SPOOL)
    one.add_argument("--follow", action="store_true", help="until none waits any more")
    one.add_argument("--retry", action="store_true", help="send them now")
    one.add_argument(
        "-n", type=number("number"), default=_PAGE, metavar="N", help="how many to list (default: %(default)s)"
    )
    one.set_defaults(run=run_spool)


def run_status(args: argparse.Namespace) -> int:
    """Show servers and helper."""
    answer = ask_broker(args, "radius")
    well = _is_well(answer)
    if args.json:
        print_json(answer)
        return 0 if well else 1
    print_warnings(answer)
    servers = objects(answer.get("servers"))
    print(table(_brief(servers), _FIRST) if servers else "nothing is known of the servers")
    spool = answer.get("spool")
    if isinstance(spool, Mapping):
        warn(f"the spool is {clean(spool.get('state'))}: {clean(spool.get('trouble'))}", "accounting")
    helper = answer.get("helper")
    print(show({"helper": helper if isinstance(helper, Mapping) else "absent"}))
    if isinstance(answer.get("dynamic"), Mapping):
        print(show({"requests of RFC 5176": answer["dynamic"]}))
    if "waiting" in answer:
        print(_spooled(answer))
    return 0 if well else 1


def _brief(servers: list[Mapping[str, object]]) -> list[dict[str, object]]:
    """Leave out what is nothing for all of them."""
    names = dict.fromkeys(name for row in servers for name in row)
    said = {name for name in names if name in _FIRST or any(row.get(name) not in (0, "", None) for row in servers)}
    return [{name: value for name, value in row.items() if name in said} for row in servers]


def _is_well(answer: Mapping[str, object]) -> bool:
    """Whether each purpose has a server that is not dead, there is somebody to ask it, and a spool for records."""
    if "servers" not in answer or "spool" in answer:
        return False
    states: dict[object, list[object]] = {}
    for row in objects(answer.get("servers")):
        states.setdefault(row.get("purpose"), []).append(row.get("state"))
    return all(any(state not in DOWN for state in found) for found in states.values())


def _spooled(answer: Mapping[str, object]) -> str:
    waiting, oldest = clean(answer.get("waiting")), clean(answer.get("oldest_s"))
    since = f", the oldest for {oldest} s" if answer.get("waiting") else ""
    numbers = (
        f"{clean(answer.get('open'))} open, {clean(answer.get('sent'))} sent, {clean(answer.get('refused'))} refused"
    )
    return f"accounting: {waiting} records wait{since}; {numbers}"


def run_test(args: argparse.Namespace) -> int:
    """Ask about a remote."""
    from tlspool_admin.client import ask  # not needed to print help

    fields: dict[str, object] = {
        "cmd": "radius.test",
        "author": author(),
        "remoteid": args.remote,
        "purpose": args.purpose,
        "service": args.service,
        "localid": args.localid,
        "side": "client" if args.client else "server",
    }
    if args.unit:
        fields["unit"] = args.unit
    if args.user:
        fields["uid"] = _uid(args.user)
    if args.password_prompt:
        fields["password"] = _password()
    answer = ask(control_socket(args, "broker"), fields, _TIMEOUT_S)
    accepted = answer.get("outcome") == "accepted"
    if args.json:
        print_json(answer)
        return 0 if accepted else 1
    print_warnings(answer)
    outcome = clean(answer.get("outcome"))
    rule = f" (rule {clean(answer.get('rule'))})" if answer.get("rule") else ""
    print(paint(f"{clean(args.remote)}: {outcome}{rule}", _COLOURS.get(outcome, "yellow")))
    for one in objects(answer.get("answers")):
        print("\n".join(_told(one)))
    return 0 if accepted else 1


def _uid(user: str) -> int:
    """Return the number of a user.

    Raises:
        PoolError: FIELD_MALFORMED, there is no such user.
    """
    if user.isascii() and user.isdigit() and len(user) < 11:
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise PoolError(Code.FIELD_MALFORMED, f"there is no user {user}") from None


def _password() -> str:
    """Ask for one at the terminal.

    Raises:
        PoolError: FIELD_MALFORMED, it is empty or too long.
    """
    password = getpass.getpass("Password: ")
    if not password or len(password) > _PASSWORD_CHARACTERS:
        raise PoolError(Code.FIELD_MALFORMED, f"a password has 1 to {_PASSWORD_CHARACTERS} characters")
    return password


def _told(one: Mapping[str, object]) -> list[str]:
    """Return the lines of an answer."""
    access = clean(one.get("access"))
    whom = f" by {clean(one.get('server'))}" if one.get("server") else ""
    took = f" in {clean(one.get('ms'))} ms" if one.get("server") else ""
    detail = f": {clean(one.get('detail'))}" if one.get("detail") else ""
    lines = [f"{clean(one.get('purpose'))}: {paint(access, _COLOURS.get(access, 'yellow'))}{whom}{took}{detail}"]
    if one.get("asked_of_sessions") is False:
        lines.append("  sessions are not asked about so, by the rule")
    lines += [f"  > {clean(pair)}" for pair in texts(one.get("sent"))]
    got = one.get("got")
    for name, value in got.items() if isinstance(got, Mapping) else ():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"  < {clean(name)}={clean(item)}")
    return lines


def run_spool(args: argparse.Namespace) -> int:
    """List what waits; or watch it go."""
    answer = _page(args, 0, args.retry)
    if args.follow:
        return _follow(args, answer)
    records = _rest(args, answer)
    if args.json:
        print_json({**answer, "records": records})
        return 0 if "waiting" in answer else 1
    print_warnings(answer)
    if "waiting" not in answer:
        return 1
    print(_spooled(answer))
    if records:
        print(table([_dated(row) for row in records]))
    return 0


def _page(args: argparse.Namespace, after: int, retry: bool = False) -> dict[str, object]:
    count = min(args.n, _PAGE)
    return ask_broker(args, "radius.spool", after=after, count=count, retry=retry)


def _rest(args: argparse.Namespace, answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return as many records as are wanted, page by page."""
    records = page = objects(answer.get("records"))
    while len(page) == _PAGE and len(records) < args.n and isinstance(last := page[-1].get("number"), int):
        page = objects(_page(args, last).get("records"))
        records = [*records, *page]
    return records[: args.n]


def _dated(row: Mapping[str, object]) -> dict[str, object]:
    at = row.get("at_s")
    if not isinstance(at, int):
        return dict(row)
    return {
        "at": f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}",
        **{k: v for k, v in row.items() if k != "at_s"},
    }


def _follow(args: argparse.Namespace, answer: dict[str, object], sleep: Callable[[float], None] = time.sleep) -> int:
    """Show how far it is, until nothing waits."""
    began, first, most = time.monotonic(), _count(answer, "sent"), 0
    said = began - _QUIET_S
    args.n = 0
    with Progress("records sent") as progress:
        while _count(answer, "waiting") or "waiting" not in answer:
            sent = _count(answer, "sent") - first
            most = max(most, sent + _count(answer, "waiting"))
            progress.at(sent, most)
            if "waiting" not in answer:
                progress.say("none: the helper does not answer")
            if not sys.stderr.isatty() and time.monotonic() - said >= _QUIET_S:
                said = time.monotonic()
                warn(_spooled(answer) if "waiting" in answer else ", ".join(texts(answer.get("warnings"))), "waiting")
            sleep(_FOLLOW_S)
            answer = _page(args, 0)
    done, took_s = _count(answer, "sent") - first, time.monotonic() - began
    if args.json:
        print_json({**answer, "seconds": round(took_s, 1)})
    else:
        print(f"no record waits; {done} sent in {took_s:.1f} s")
    return 0


def _count(answer: Mapping[str, object], name: str) -> int:
    value = answer.get(name)
    return value if isinstance(value, int) else 0
