"""Find out all that the checks need to know, and let them judge it."""

from __future__ import annotations

import argparse
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tlspool_admin.client import NotReachable, ask
from tlspool_admin.doctor import credentials, host, pool, radius
from tlspool_admin.doctor.finding import ERROR, NOTE, Finding
from tlspool_admin.operations import operate
from tlspool_admin.options import config_path
from tlspool_admin.table import objects
from tlspool_admin.where import control_socket
from tlspool_common import setting_checks_radius, settings
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import Settings

Say = Callable[[str], None]


def examine(args: argparse.Namespace, say: Say = lambda _what: None) -> list[Finding]:
    """Return all findings; ``say`` hears what is being looked at."""
    say("the configuration")
    path = config_path(args)
    found, problems, warnings = settings.check(path)
    findings = host.configuration(path, problems, warnings)
    now = datetime.now(UTC)
    if found is None:
        text = "nothing else was looked at: the configuration says where it is"
        return [*findings, Finding(NOTE, "configuration", "", text)]
    say("files and this host")
    findings += _host(path, found, now)
    say("the daemons")
    answers = _daemons(found)
    findings += pool.daemons(answers)
    keyd = answers["keyd"]
    if not isinstance(keyd, str):
        findings += pool.tokens(keyd)
    if not isinstance(answers["broker"], str):
        findings += _radius(found)
    say("the databases")
    return [*findings, *_databases(args, found, now, keyd_answers=not isinstance(keyd, str))]


def _host(path: Path, found: Settings, now: datetime) -> list[Finding]:
    findings = []
    for name, unit in pool.UNITS.items():
        findings += host.control_socket(control_socket(found.run_dir, name), unit)
    for one in found.sockets:
        findings += host.application_socket(one.path)
    findings += host.private_directory(found.run_dir / "private")
    findings += host.pin_file(found.pkcs11_pin_file) if not found.pkcs11_pin_secret else []
    findings += host.modules(module.path for module in found.pkcs11)
    findings += host.provider()
    findings += radius.settings(setting_checks_radius.look(found))
    written = host.written_at([path, found.dbenv_dir, Path(host.__file__)])
    return [*findings, *host.clock(now, written, synchronised=host.kernel_clock_synchronised())]


def _daemons(found: Settings) -> dict[str, Mapping[str, object] | str]:
    answers: dict[str, Mapping[str, object] | str] = {}
    for name in pool.UNITS:
        try:
            answers[name] = ask(control_socket(found.run_dir, name), {"cmd": "status"})
        except (NotReachable, PoolError) as error:
            answers[name] = str(error)
    return answers


def _radius(found: Settings) -> list[Finding]:
    try:
        answer: Mapping[str, object] | str = ask(control_socket(found.run_dir, "broker"), {"cmd": "radius"})
    except PoolError as error:
        if error.code is Code.RADIUS_UNUSED:
            return []
        answer = str(error)
    except NotReachable as error:
        answer = str(error)
    return radius.servers(answer)


def _databases(args: argparse.Namespace, found: Settings, now: datetime, *, keyd_answers: bool) -> list[Finding]:
    try:
        listed = objects(operate(args, "localid.list").get("identities"))
        identities = [
            {**entry, "records": operate(args, "localid.get", id=entry.get("id")).get("records")} for entry in listed
        ]
        selectors = objects(operate(args, "disclose.list").get("selectors"))
        keys = objects(operate(args, "trust.list").get("keys"))
        trusted = [{**entry, **operate(args, "trust.get", key=entry.get("key"))} for entry in keys]
    except (NotReachable, PoolError) as error:
        return [Finding(ERROR, "databases", str(found.dbenv_dir), str(error), "see the log of tlspool-broker")]
    records = [record for entry in trusted for record in objects(entry.get("records"))]
    anchors = [one for record in records if (one := credentials.anchor_of(record)) is not None]
    findings: list[Finding] = []
    if keyd_answers:
        held = ask(control_socket(found.run_dir, "keyd"), {"cmd": "keys"})
        findings += credentials.keys(identities, objects(held.get("keys")))
        findings += credentials.matching(identities, _asked(found, identities))
    return [
        *findings,
        *credentials.certificates(identities, anchors, now),
        *credentials.disclosures(selectors, identities),
        *credentials.trust(trusted, now),
    ]


def _asked(found: Settings, identities: Iterable[Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Ask keyd for the public key behind each URI."""
    answers: dict[str, Mapping[str, object]] = {}
    for entry in identities:
        for record in objects(entry.get("records")):
            uri = record.get("uri")
            if not isinstance(uri, str) or uri in answers:
                continue
            try:
                answer = ask(control_socket(found.run_dir, "keyd"), {"cmd": "key", "uri": uri})
                answers[uri] = {"spki": base64.b64decode(str(answer.get("spki", "")), validate=True).hex()}
            except (NotReachable, PoolError, binascii.Error, ValueError):
                continue  # that a key is not there is told by the list of keys
    return answers
