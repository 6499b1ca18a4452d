"""Write the reference pages that are made from tables; with ``--check`` only say whether they are current."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import get_args, get_type_hints

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tlspool_admin import configuration_text  # noqa: E402
from tlspool_common import (  # noqa: E402
    errors,
    event_table,
    messages,
    metric_table,
    policies,
    radius_rules,
    radius_table,
    sandbox_calls,
    sandbox_profiles,
    setting_table,
    settings,
)
from tlspool_common.codec import Bits, Items  # noqa: E402
from tlspool_common.sandbox_landlock import Access  # noqa: E402
from tlspool_common.sandbox_seccomp import Compare, Rule, Verdict  # noqa: E402

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


def _cell(text: str) -> str:
    """Return text for a cell of a table: a bar in it would begin the next one, within backquotes too."""
    return text.replace("|", "\\|")


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
        8: "RADIUS and accounting",
        9: "Internal",
    }
    out = [
        _NOTE.format(source="tlspool_common/error_table.py"),
        "# Errors\n\nA code stands in brackets at the start of what an application reads, and as `code=` in logs. It never ",
        "changes its meaning. Programs that use protocol V2 directly see the com_err number of table `tlsP`.\n",
    ]
    last = 0
    for code, entry in sorted(errors.TABLE.items()):
        if code // 100 != last:
            last = code // 100
            out.append(
                f"\n## {last}xx {heads[last]}\n\n| code | name | what happened | what to do | com_err |\n|---|---|---|---|---|\n"
            )
        out.append(
            f"| {code.value} | {code.name} | {_cell(entry.happened)} | {_cell(entry.remedy)} "
            f"| {entry.com_err.number} {entry.com_err.name} |\n"
        )
    return "".join(out)


def configuration_page() -> str:
    """The settings table."""
    out = [
        _NOTE.format(source="tlspool_common/setting_table.py"),
        f"# Configuration\n\n{configuration_text.FILE}\n\n{configuration_text.DAEMONS}\n\n",
        "| keyword | value | default | for | meaning |\n|---|---|---|---|---|\n",
    ]
    for option in setting_table.TABLE:
        value = "" if option.default is None else option.kind.show(option.default)
        shown = f"`{value}`" if value else ""
        parts = " ".join(f"({letter})" if letter in option.restart else letter for letter in option.parts)
        out.append(f"| `{option.name}` | {option.kind.what} | {shown} | {parts} | {option.doc} |\n")
    for row in setting_table.REPEATED.values():
        parts = " ".join(f"({letter})" if letter in row.restart else letter for letter in row.parts)
        out.append(f"| `{row.name}` | {row.what} | | {parts} | {row.doc}; may be repeated |\n")
    out.append(f"\n{configuration_text.SPELLINGS}\n")
    out.append(f"\n## Reading it again\n\n{configuration_text.AGAIN}\n")
    out.append(f"\n## Several application sockets\n\n{configuration_text.SOCKETS}\n")
    for title, doc in configuration_text.RULES:
        out.append(f"\n## {title}\n\n{doc}\n")
    out.append("\nAttributes and words are listed in [RADIUS attributes](radius-attributes.md).\n")
    out.append(
        "\n## Keywords of earlier pools\n\nThese are read, and checked, and have no effect; a warning says what to use "
        "instead.\n\n| keyword | value | instead |\n|---|---|---|\n"
    )
    for unused in sorted(setting_table.UNUSED.values(), key=lambda one: one.name):
        out.append(f"| `{unused.name}` | {unused.kind.what} | {unused.instead} |\n")
    out.append(f"\n{configuration_text.EARLIER}\n")
    return "".join(out)


_VERSIONS = {policies.TLS12: "1.2", policies.TLS13: "1.3"}


def policies_page() -> str:
    """The named crypto policies."""
    out = [
        _NOTE.format(source="tlspool_common/policies.py"),
        "# Crypto policies\n\nWhat a handshake may agree on has a name. All policies have forward secrecy and authenticated ",
        "encryption, and none goes below TLS 1.2. No handshake is renegotiated, compressed or resumed, under whichever ",
        "policy.\n\n| policy | TLS | in one sentence | validation |\n|---|---|---|---|\n",
    ]
    for policy in policies.POLICIES.values():
        versions = " and ".join(_VERSIONS[number] for number in sorted({policy.tls_min, policy.tls_max}))
        default = " (default)" if policy.name == policies.DEFAULT else ""
        also = f"`{policy.expression}`" if policy.expression else ""
        out.append(f"| `{policy.name}`{default} | {versions} | {policy.doc} | {also} |\n")
    out.append(
        "\nThe last column is a [validation expression](validation.md) that sessions under the policy must satisfy besides all "
        "others.\n\n## Which one counts\n\nThe first of these that is there:\n\n"
        "1. `tlspool policy set localid:ID NAME`, for the local identity\n"
        "2. `tlspool policy set service:NAME NAME`, for the service that the application names\n"
        "3. `tlspool policy set host NAME`\n4. `tls_policy NAME` in the [configuration](configuration.md)\n"
        f"5. `{policies.DEFAULT}`\n\n"
        "An assignment is one change of the databases, with author, time and reason, and can be undone: `tlspool history`, "
        "`tlspool rollback`. Sessions that begin afterwards are under the new policy; those that are there go on.\n\n"
        "* `tls_groups`, `tls_ciphers12`, `tls_ciphersuites13` and `tls_sigalgs` take the place of what the policy of the "
        "configuration (4 or 5) has. They do not touch a policy that was assigned (1 to 3): that one is all of a piece.\n"
        "* `tls_min_version` and `tls_max_version` bound every policy. They make its range smaller, never larger. A policy that "
        "has no version left makes handshakes fail with error 705; in the configuration it is refused when it is read.\n"
        "* `quantum_proof_encryption` adds `q` to the validation of every policy, `quantum_proof_authentication` adds `Q`. "
        "Without `tls_policy` they choose `pq-required`.\n"
        "* A server that leaves it to its client's server name which identity it has, or to its application's answer, is under "
        "the policy of the identity that it becomes: versions, groups and all else are settled after the name is known. Who "
        "asks for a name whose policy has no version in common with it gets the alert `protocol_version`, and others do not.\n"
        "* An application chooses the name of its service, and so among policies that are assigned to services. Where that "
        "must not make it weaker, assign policies to identities, or let `tls_min_version` be the floor.\n"
        "\n## What they consist of\n\nLists are in OpenSSL's syntax: most preferred first; `?` before a name lets a library do "
        "without that does not know it; `*` marks groups that a client sends a key share for; `/` ends a class, from which a "
        "server takes what it can before it looks at the next. Where the configuration sets a list to nothing, it is the "
        "library's own, which has more in it than any policy.\n"
    )
    for policy in policies.POLICIES.values():
        out.append(f"\n### {policy.name}\n\n| | |\n|---|---|\n")
        for name in ("groups", "sigalgs", "ciphers_tls12", "ciphersuites_tls13"):
            text = getattr(policy, name)
            if name == "ciphers_tls12" and policy.tls_min > policies.TLS12:
                continue
            out.append(
                f"| {name} | {' '.join(f'`{part}`' for part in text.split(':')) if text else 'as the library'} |\n"
            )
    out.append(
        "\nWhat goes over the wire under each of them, and which remotes get through, is in `tests/vectors/policies`; a test "
        "holds the pool against it.\n"
    )
    return "".join(out)


def _access_words(access: Access) -> str:
    return ", ".join(str(one.name).lower().replace("_", " ") for one in access)


def _calls(rules: list[Rule]) -> str:
    plain = sorted({rule.call for rule in rules if rule.verdict is Verdict.ALLOW and not rule.conditions})
    out = [f"Without conditions: {' '.join(f'`{name}`' for name in plain)}\n\n| call | if | why |\n|---|---|---|\n"]
    merged: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        if rule.verdict is Verdict.ALLOW and rule.conditions:
            tests = [
                f"argument {one.argument} is {one.value:#x}"
                if one.compare is Compare.EQUAL
                else f"argument {one.argument} & {one.mask:#x} is {one.value:#x}"
                for one in rule.conditions
            ]
            merged.setdefault((rule.call, rule.why), []).append(" and ".join(tests))
    out += [f"| `{call}` | {', or '.join(dict.fromkeys(tests))} | {why} |\n" for (call, why), tests in merged.items()]
    return "".join(out)


def permissions_page() -> str:
    """What each process may do inside its sandbox."""
    calls, pid = sandbox_calls, 1
    for name in ("SOFTHSM2_CONF", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):  # of whoever makes the page
        os.environ.pop(name, None)
    sandbox_profiles.token_directory = lambda _configuration: Path("/var/lib/softhsm/tokens")
    roles = {
        "worker": (sandbox_profiles.worker(), calls.worker(pid)),
        "worker master": (_profile("master"), calls.service(forks=True)),
        "keyd": (_profile("keyd"), calls.service(executes=True, modules=True)),
        "token process": (sandbox_profiles.token(["local"], _MODULE), calls.leaf(pid, modules=True)),
        "broker": (_profile("broker"), calls.service(network=True, executes=True, owners=True)),
        "tlspool-online": (sandbox_profiles.online((), True, (80,)), calls.leaf(pid, network=True)),
        "tlspool-radius": (
            sandbox_profiles.radius(Path("/var/lib/tlspool/radius")),
            calls.leaf(pid, network=True, writes=True),
        ),
    }
    out = [
        _NOTE.format(source="tlspool_common/sandbox_profiles.py and sandbox_calls.py"),
        "# Permissions\n\nWhat each process may do inside its [sandbox](sandbox.md), with the default settings. Everything "
        "else is refused.\n",
    ]
    for role, (profile, rules) in roles.items():
        out.append(f"\n## {role}\n\n")
        grants = dict.fromkeys((one.why, _access_words(one.access)) for one in profile.grants)
        out.append("| files: what for | access |\n|---|---|\n" if grants else "No files.\n")
        out += [f"| {why} | {words} |\n" for why, words in grants]
        ports = " ".join(map(str, profile.connect or ())) or "none"
        out.append(f"\nTCP ports that it may connect to: {ports}. System calls:\n\n{_calls(rules)}")
    out.append(
        "\n## Calls that end a process\n\nIn all of them: "
        + " ".join(f"`{one}`" for one in calls.KILLED.split())
        + ". "
        f"Where no program is executed: {calls.EXECUTING}. In processes without children: {calls.WITHOUT_CHILDREN}.\n"
    )
    return "".join(out)


_MODULE = "/usr/lib/softhsm/libsofthsm2.so"


def _profile(role: str) -> sandbox_profiles.Profile:
    part = {"master": setting_table.Part.WORKER, "keyd": setting_table.Part.KEYD, "broker": setting_table.Part.BROKER}[
        role
    ]
    text = f"pkcs11_path {_MODULE}\npkcs11_token pkcs11:\n"
    make = getattr(sandbox_profiles, role)
    return make(settings.parse_untrusted(text, part), Path("/etc/tlspool.conf"))


def events_page() -> str:
    """The table of events."""
    out = [
        _NOTE.format(source="tlspool_common/event_table.py"),
        "# Events\n\nWhat the daemons say is facts, one to a line: `event=session.start session=17 caller=postfix.service[815] ...`. ",
        "Where a fact is about a session, it has `session`; where the caller is known, `caller` (unit or program, and process) and ",
        "`unit`; where databases have decided, `generation`. The levels are debug, info (one line at the start and one at the end ",
        "of a session), warning (somebody may have to act) and error (somebody has to).\n\n",
        "Of events marked *bounded* at most 200 lines a second are written, as remotes or applications can make them happen at ",
        "will; `log.withheld` says how many more there were. The [metrics](metrics.md) count all of them.\n\n",
        "Events with *yes* are in the [audit trail](audit.md) as well, and those with *before* are there before what they speak ",
        "of happens.\n\n`B` is the broker, `W` the worker, `K` keyd, `O` the helper `tlspool-online`, `R` the helper `tlspool-radius`.\n\n",
        "| event | of | audit | bounded | what it says |\n|---|---|---|---|---|\n",
    ]
    for name, event in event_table.TABLE.items():
        bounded = "bounded" if event.provoked else ""
        out.append(f"| `{name}` | {' '.join(event.daemons)} | {event.recorded.value} | {bounded} | {event.doc} |\n")
    return "".join(out)


_METRICS = """\
# Metrics

Each daemon counts what it does, and tells it as [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) text:

    tlspool metrics                                                  # all three daemons, one text
    printf 'metrics\\n' | socat - UNIX:/run/tlspool/keyd.sock         # one of them, by hand
    curl http://127.0.0.1:9109/metrics                               # with metrics_listen 127.0.0.1:9109

The port is the broker's. It is of the loopback interface only, answers `GET /metrics` and nothing else, and tells the numbers of
all three daemons: those of worker and keyd the broker asks for over their control sockets, with a second's patience. It has to be
able to open these: as a member of the group that they belong to, where the daemons run as different users. A daemon
that does not answer is there as `tlspool_up{daemon="keyd"} 0`. Every process of the host may ask: the numbers name nobody. A
request under a name that is neither `localhost` nor a loopback address is refused, so that pages in a browser cannot ask.
Sixteen are served at a time. One that says nothing, or does not read, gives way to the next, so that nobody keeps a scraper out.

In Prometheus:

    scrape_configs:
      - job_name: tlspool
        static_configs: [{targets: ["127.0.0.1:9109"]}]

`examples/grafana/tlspool.json` is a dashboard for that, ready to import.

A number is a fact that was said: the same [events](events.md) that are in the log are what is counted, whatever the log's level,
and whether or not there was room for the line. What there *is* (sessions, workers, memory) is read at the moment somebody asks.
Counters begin at 0 when a daemon starts.

**What is not counted.** Bytes of a session are counted when it ends: the worker that relays them is not asked before. A worker process that was
taken over can say of its own sessions what it likes, within the labels. `tlspool_key_token_seconds` is measured by keyd: up to
four requests more than `pkcs11_sessions` are sent ahead, and what those wait in the token process's channel counts as the
token's time. What waits for a RADIUS server is known to the helper only: `tlspool radius status` and `spool` ask it.
"""


def metrics_page() -> str:
    """The table of metrics."""
    out = [
        _NOTE.format(source="tlspool_common/metric_table.py"),
        _METRICS,
        "\n## All of them\n\n| name | type | of | labels | what it says |\n|---|---|---|---|---|\n",
    ]
    suffix = {metric_table.Kind.COUNTER: "_total", metric_table.Kind.INFO: "_info"}
    for metric in metric_table.TABLE:
        name = metric.name + suffix.get(metric.kind, "")
        labels = " ".join(f"`{label}`" for label in metric.labels)
        out.append(f"| `{name}` | {metric.kind.value} | {' '.join(metric.daemons)} | {labels} | {metric.doc} |\n")
    out.append("\n## Labels\n\n| label | values |\n|---|---|\n")
    for label, values in metric_table.DOMAINS.items():
        if label in ("rule", "result"):
            more = "" if label == "rule" else "`ok`, `withheld`, and "
            out.append(f"| `{label}` | {more}the names of [errors](errors.md) in small letters |\n")
        elif label == "event":
            out.append(f"| `{label}` | those [events](events.md) that are bounded |\n")
        else:
            out.append(f"| `{label}` | {' '.join(f'`{value}`' for value in values)} |\n")
    out.append("| `token` | lines `pkcs11_token` of the configuration, `none` |\n")
    out.append("| `version_of_pool` | of the package |\n\nWhat is none of these is `other`.\n")
    out.append("\n## Buckets\n\n| histogram | bounds in seconds |\n|---|---|\n")
    for metric in metric_table.TABLE:
        if metric.buckets:
            out.append(f"| `{metric.name}` | {' '.join(f'{bound:g}' for bound in metric.buckets)} |\n")
    return "".join(out)


_OFTEN = (201, 202, 204, 208, 210, 302, 303, 306, 307, 401, 402, 404, 406, 409, 411, 412, 414, 501, 505, 506, 508, 510)
_OFTEN += (518, 601, 602, 603, 604, 701, 801, 802, 804, 806, 810)
"""Refusals that an operator meets most, in the order of their numbers."""

_REFUSALS = ("<!-- refusals -->\n", "<!-- end of refusals -->\n")


def operations_page() -> str:
    """The operator's page, which is written by hand but for one table."""
    text = (HERE / "operations.md").read_text()
    before, _, rest = text.partition(_REFUSALS[0])
    _, _, behind = rest.partition(_REFUSALS[1])
    rows = ["| code | what happened | what to do |\n|---|---|---|\n"]
    for number in _OFTEN:
        entry = errors.TABLE[errors.Code(number)]
        rows.append(f"| {number} | {_cell(entry.happened)} | {_cell(entry.remedy)} |\n")
    return "".join([before, _REFUSALS[0], *rows, _REFUSALS[1], behind])


def radius_page() -> str:
    """The attributes, and what rules may write of them."""
    uses = ((radius_table.Use.REQUEST, "rule"), (radius_table.Use.REPLY, "answer"))
    uses += ((radius_table.Use.ACCOUNT, "accounting"), (radius_table.Use.DYNAMIC, "dynamic"))
    out = [
        _NOTE.format(source="tlspool_common/radius_table.py and radius_rules.py"),
        "# RADIUS attributes\n\nWhere an attribute is used: *rule* in questions, and set by `radius` rules; *answer* "
        "read in what a server says; *accounting* in accounting records; *dynamic* in requests of RFC 5176.\n\n"
        "| attribute | number | kind | where | what it holds |\n|---|--:|---|---|---|\n",
    ]
    for one in radius_table.TABLE:
        number = f"{one.vendor}:{one.number}" if one.vendor else str(one.number)
        words = ", ".join(word for word, _ in one.values)
        where = ", ".join(word for use, word in uses if one.use & use)
        doc = "; ".join(part for part in (one.doc, words) if part)
        out.append(f"| {one.name} | {number} | {one.kind} | {where} | {doc} |\n")
    out.append("\n## What is sent unless a rule says otherwise\n\n| attribute | template |\n|---|---|\n")
    out += [f"| {name} | `{template}` |\n" for name, template in radius_rules.DEFAULTS]
    out.append("\n## Words of templates\n\n| word | stands for |\n|---|---|\n")
    out += [f"| `{{{word}}}` | {doc} |\n" for word, doc in radius_rules.WORDS.items()]
    return "".join(out)


def radius_dictionary() -> str:
    """The attributes of ours, for servers."""
    return (
        "# Attributes of the TLS pool, for FreeRADIUS.  Made by docs/generate.py from tlspool_common/radius_table.py;\n"
        "# do not edit.  docs/radius-attributes.md says what each holds.\n"
        f"{radius_table.dictionary((radius_table.VENDOR,))}"
    )


PAGES = {
    "../examples/radius/dictionary.tlspool": radius_dictionary,
    "radius-attributes.md": radius_page,
    "permissions.md": permissions_page,
    "events.md": events_page,
    "metrics.md": metrics_page,
    "messages.md": messages_page,
    "errors.md": errors_page,
    "configuration.md": configuration_page,
    "operations.md": operations_page,
    "policies.md": policies_page,
}


def manuals() -> dict[str, str]:
    """Manual pages: of the commands, from their parsers, of the daemons, likewise, and of the configuration."""
    from tlspool_admin import manpages, manpages_system
    from tlspool_admin.__main__ import parser
    from tlspool_broker import __main__ as broker
    from tlspool_keyd import __main__ as keyd
    from tlspool_worker import __main__ as worker

    daemons = [one.parser() for one in (broker, worker, keyd)]
    made = {**manpages.pages(parser()), **manpages_system.pages(daemons)}
    return {f"../man/{name}": text for name, text in made.items()}


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, text in {**{name: page() for name, page in PAGES.items()}, **manuals()}.items():
        path = HERE / name
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
