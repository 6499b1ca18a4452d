"""``tlspool policy list|show|set|get|del``: which handshakes are good enough, for whom."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tlspool_admin.catalog import help_of
from tlspool_admin.operations import operate
from tlspool_admin.options import changing, common
from tlspool_admin.table import clean, objects, paint, print_json, print_warnings, table
from tlspool_common.policies import POLICIES, CryptoPolicy

_SET = """\
Assigns a named policy.  WHO is host, service:NAME (an IANA service name, as applications give it) or localid:ID; what
is most specific counts: localid, then service, then host, then the setting tls_policy.  Sessions that run are not
disturbed."""
_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("policy", help=help_of("policy"))
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|set|get|del")
    change = [common(), changing()]

    one = actions.add_parser("list", parents=[common()], help="what each policy means, and who has which")
    one.set_defaults(run=run_list)

    one = actions.add_parser("show", parents=[common()], help="all that a policy allows")
    one.add_argument("name", metavar="POLICY", choices=sorted(POLICIES), help=", ".join(POLICIES))
    one.set_defaults(run=run_show)

    one = actions.add_parser("set", parents=change, help="assign a policy", description=_SET)
    one.add_argument("key", metavar="WHO", help="host, service:NAME or localid:ID")
    one.add_argument("name", metavar="POLICY", choices=sorted(POLICIES), help=", ".join(POLICIES))
    one.set_defaults(run=run)

    one = actions.add_parser("get", parents=[common()], help="show what is assigned to somebody")
    one.add_argument("key", metavar="WHO", help="host, service:NAME or localid:ID")
    one.set_defaults(run=run)

    one = actions.add_parser("del", parents=change, help="assign nothing")
    one.add_argument("key", metavar="WHO", help="host, service:NAME or localid:ID")
    one.set_defaults(run=run)


def run_list(args: argparse.Namespace) -> int:
    """Show the policies, and the assignments."""
    answer = operate(args, "policy.list")
    assigned = objects(answer.get("policies"))
    if args.json:
        print_json({**answer, "meanings": {name: meaning(policy) for name, policy in POLICIES.items()}})
        return 0
    print(
        table(
            [
                {
                    "policy": policy.name,
                    "TLS": _versions(policy),
                    "groups": policy.groups or "the library's",
                    "signatures": f"{len(policy.sigalgs.split(':'))} named" if policy.sigalgs else "the library's",
                    "requires": policy.expression or "-",
                }
                for policy in POLICIES.values()
            ]
        )
    )
    print()
    for policy in POLICIES.values():
        print(f"{paint(policy.name, 'bold')}: {policy.doc}")
    print()
    rows = [{"who": one.get("key"), "policy": one.get("policy")} for one in assigned]
    print(table(rows) if rows else "none is assigned: the setting tls_policy counts for all")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Show a policy."""
    policy = POLICIES[args.name]
    if args.json:
        print_json({"ok": True, **meaning(policy)})
        return 0
    for name, value in meaning(policy).items():
        print(f"{name}: {clean(value)}")
    return 0


def meaning(policy: CryptoPolicy) -> dict[str, object]:
    """Return a policy as data; a list that is empty is the library's own."""
    return {
        "policy": policy.name,
        "doc": policy.doc,
        "tls_min": _VERSIONS[policy.tls_min],
        "tls_max": _VERSIONS[policy.tls_max],
        "groups": policy.groups,
        "sigalgs": policy.sigalgs,
        "ciphers_tls12": policy.ciphers_tls12,
        "ciphersuites_tls13": policy.ciphersuites_tls13,
        "expression": policy.expression,
    }


def _versions(policy: CryptoPolicy) -> str:
    low, high = _VERSIONS[policy.tls_min], _VERSIONS[policy.tls_max]
    return low if low == high else f"{low}-{high}"


def run(args: argparse.Namespace) -> int:
    """Set, get or delete an assignment."""
    fields = {"policy": args.name} if args.action == "set" else {}
    answer = operate(args, f"policy.{args.action}", key=args.key, **fields)
    found = 0 if args.action != "get" or answer.get("policy") else 1
    if args.json:
        print_json(answer)
        return found
    print_warnings(answer)
    print(_sentence(args.action, answer))
    return found


def _sentence(action: str, answer: Mapping[str, object]) -> str:
    key, name = clean(answer.get("key")), clean(answer.get("policy"))
    if action == "get":
        return f"{key}: {name or 'nothing is assigned'}"
    if action == "del":
        return f"{key}: {clean(answer.get('removed'))} removed, generation {answer.get('generation')}"
    return f"{key}: {name} set, generation {answer.get('generation')}"
