"""Whether a pool is fine, degraded or down, from what its daemons say of themselves; for people and for monitoring.

down      a new session cannot be set up: no broker, no keyd, or no worker and nobody who makes one
degraded  sessions are set up, but somebody should look
fine      neither
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

from tlspool_admin import where
from tlspool_admin.client import NotReachable, Refused, ask
from tlspool_admin.table import clean, objects, texts

DAEMONS = ("broker", "worker", "keyd")

LAG_MS = 100.0
"""A loop that is usually later than this has more to do than it can; a quiet one is late by a millisecond or two.  Now
and then it may be much later: that is a host with other things to do, or somebody who imports thousands of anchors."""

WAITING = 64
"""Signatures that wait for tokens: as many as a whole worker's handshakes can be."""

ASK_S = 5.0
"""For a daemon to say how it is.  One that takes longer is not fine."""

Answers = Mapping[str, Mapping[str, object]]


class Level(IntEnum):
    """How it is; the number is the exit status."""

    FINE = 0
    DEGRADED = 1
    DOWN = 2


def gather(
    run_dir: Path, requests: Mapping[str, str | dict[str, object]], timeout_s: float = ASK_S
) -> dict[str, dict[str, object]]:
    """Ask daemons, one request each; the answer of one that gives none has ``ok`` false and ``error``."""
    answers: dict[str, dict[str, object]] = {}
    for daemon, request in requests.items():
        name = daemon.partition(" ")[0]
        try:
            asked: dict[str, object] = {"cmd": request} if isinstance(request, str) else request
            answers[daemon] = ask(where.control_socket(run_dir, name), asked, timeout_s)
        except (NotReachable, Refused) as error:
            answers[daemon] = {"ok": False, "error": str(error)}
    return answers


def judge(answers: Answers) -> tuple[Level, list[str]]:
    """Return how a pool is, by the answers of its daemons to ``status``, and why it is not fine."""
    down: list[str] = []
    degraded: list[str] = []
    for name in DAEMONS:
        if answers[name].get("ok") is not True:
            (down if name == "broker" else degraded).append(f"{name}: {clean(answers[name].get('error', 'no answer'))}")
    broker = answers["broker"]
    if broker.get("ok") is True:
        _judge_broker(broker, down, degraded)
    if answers["keyd"].get("ok") is True:
        degraded += _of_keyd(answers["keyd"])
    return (Level.DOWN if down else Level.DEGRADED if degraded else Level.FINE), [*down, *degraded]


def _judge_broker(broker: Mapping[str, object], down: list[str], degraded: list[str]) -> None:
    if not broker.get("keyd"):
        down.append("broker: keyd is not connected: nothing can be signed")
    if not broker.get("master"):
        has_workers = bool(broker.get("workers"))
        (degraded if has_workers else down).append("broker: the worker master is not connected: no new workers")
    elif not broker.get("workers"):
        degraded.append("broker: there are no workers yet")
    if broker.get("draining"):
        degraded.append("broker: draining: new sessions are refused; tlspool resume ends that")
    radius = broker.get("radius")
    state = radius.get("state") if isinstance(radius, Mapping) else None
    if state not in (None, "ready", "not used"):
        degraded.append(f"broker: the helper that speaks RADIUS is {clean(state)}: nobody can be asked")
    lag = broker.get("lag_ms")
    usual = lag.get("p50") if isinstance(lag, Mapping) else None
    if isinstance(usual, (int, float)) and usual > LAG_MS:
        degraded.append(f"broker: its loop is usually {usual:.0f} ms late: it has more to do than it can")


def _of_keyd(keyd: Mapping[str, object]) -> list[str]:
    found = [f"keyd: locked by an operator: {clean(uri)}; tlspool keys unlock" for uri in texts(keyd.get("locked"))]
    for module in objects(keyd.get("modules")):
        state = module.get("state")
        if state not in ("ready", "TOKEN_LOCKED"):
            found.append(f"keyd: {clean(module.get('wanted'))}: {clean(state)}")
        for line in texts(module.get("tokens")) if state == "ready" else ():
            if not line.endswith((" ready", " TOKEN_LOCKED")):
                found.append(f"keyd: {clean(line)}")
    waiting = keyd.get("waiting")
    if isinstance(waiting, int) and waiting > WAITING:
        found.append(f"keyd: {waiting} signatures wait for tokens; tlspool keys queue")
    return found


def sentence(level: Level, answers: Answers) -> str:
    """Say in one line how it is."""
    broker = answers["broker"]
    if broker.get("ok") is not True:
        return level.name.lower()
    generation = clean(broker.get("generation"))
    ready = sum(
        line.endswith(" ready")
        for module in objects(answers["keyd"].get("modules"))
        for line in texts(module.get("tokens"))
    )
    return (
        f"{level.name.lower()}: {_count(broker.get('sessions'), 'session')},"
        f" {clean(broker.get('in_flight', 0))} being set up, {_count(broker.get('workers'), 'worker')},"
        f" {_count(ready, 'token')} ready, generation {generation}"
    )


def _count(number: object, what: str) -> str:
    return f"{clean(number)} {what}{'' if number == 1 else 's'}"
