"""Checks of what the daemons say of themselves: reachable, connected to each other, tokens ready."""

from __future__ import annotations

from collections.abc import Mapping

from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from tlspool_admin.table import objects

Answers = Mapping[str, Mapping[str, object] | str]
"""What each daemon answered to ``status``, or why it did not."""

UNITS = {"broker": "tlspool-broker", "worker": "tlspool-worker", "keyd": "tlspool-keyd"}
_SEATS = {
    # state of a seat: level, words, remedy
    "ready": (OK, "the token is ready", ""),
    "opening": (NOTE, "the token is being opened", "look again in a few seconds"),
    "PIN_MISSING": (ERROR, "nobody has given the PIN", "tlspool pin, or pkcs11_pin_file"),
    "PIN_WRONG": (ERROR, "the PIN is wrong", "correct pkcs11_pin_file, or type it: tlspool pin --again"),
    "PIN_LOCKED": (ERROR, "the PIN is locked", "unlock it with the token's own tool and its security officer's PIN"),
    "PIN_LAST_TRY": (ERROR, "one try of the PIN is left, and the pool does not take it", "log in by hand with the PIN"),
    "TOKEN_GONE": (ERROR, "the token is not there", "insert it, or correct pkcs11_token"),
    "TOKEN_LOCKED": (WARNING, "an operator has locked the token", "when its keys are safe: tlspool keys unlock"),
    "TOKEN_SLOW": (WARNING, "the token does not answer in time", "see pkcs11_timeout_s, and the token's health"),
}


def daemons(answers: Answers) -> list[Finding]:
    """Check that all three answer, speak the same protocol, and are connected."""
    found = []
    for name, unit in UNITS.items():
        answer = answers.get(name, "was not asked")
        if isinstance(answer, str):
            remedy = f"systemctl status {unit}; journalctl -u {unit}"
            found.append(Finding(ERROR, "daemons", unit, answer, remedy))
        else:
            found.append(Finding(OK, "daemons", unit, f"answers, pid {answer.get('pid')}"))
    broker = answers.get("broker")
    if isinstance(broker, str) or broker is None:
        return found
    for name, field, text in (
        ("keyd", "keyd", "is not connected to the broker: no session can be set up"),
        ("worker", "master", "is not connected to the broker: no session can be set up"),
    ):
        if isinstance(answers.get(name), Mapping) and not broker.get(field):
            found.append(Finding(ERROR, "daemons", UNITS[name], text, f"systemctl restart {UNITS[name]}; see its log"))
    protocols = {
        name: answer["protocol"]
        for name, answer in answers.items()
        if isinstance(answer, Mapping) and "protocol" in answer
    }
    if len(set(protocols.values())) > 1:
        text = ", ".join(f"{name} speaks {number}" for name, number in protocols.items())
        found.append(Finding(ERROR, "daemons", "", f"protocols differ: {text}", "restart all three after an upgrade"))
    radius = broker.get("radius")
    state = radius.get("state") if isinstance(radius, Mapping) else None
    if state == "ready":
        found.append(Finding(OK, "daemons", "tlspool-radius", "the helper that speaks RADIUS is there"))
    elif state not in (None, "not used"):
        remedy = "see the broker's log: helper.lost says why; then tlspool radius status"
        found.append(Finding(ERROR, "daemons", "tlspool-radius", f"the helper that speaks RADIUS is {state}", remedy))
    if broker.get("master") and not broker.get("workers"):
        found.append(Finding(WARNING, "daemons", "tlspool-worker", "there are no workers", "see its log"))
    return found


def tokens(keyd: Mapping[str, object]) -> list[Finding]:
    """Check the tokens that keyd uses."""
    modules = objects(keyd.get("modules"))
    if not modules:
        remedy = "name the library and token by pkcs11_path and pkcs11_token"
        return [Finding(ERROR, "token", "", "no token is configured: no session can be authenticated", remedy)]
    found = []
    for one in modules:
        state = str(one.get("state"))
        default = (ERROR, f"the token cannot be used: {state}", "see the log of tlspool-keyd")
        level, text, remedy = _SEATS.get(state, default)
        found.append(Finding(level, "token", f"{one.get('wanted')} ({one.get('module')})", text, remedy))
    return found
