"""Whether a pool is fine, degraded or down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin.verdict import Level, judge, sentence

T = "pkcs11:token=t"
WELL = {
    "broker": {"ok": True, "keyd": True, "master": True, "workers": 2, "sessions": 1, "generation": 9, "in_flight": 0},
    "worker": {"ok": True},
    "keyd": {"ok": True, "waiting": 0, "locked": [], "modules": [{"state": "ready", "tokens": [f"{T} ready"]}]},
}
AWAY = {"ok": False, "error": "no answer"}


def but(name, **fields):
    return {**WELL, name: {**WELL[name], **fields}}


@pytest.mark.parametrize(
    ("answers", "level", "why"),
    [
        (WELL, Level.FINE, ""),
        ({**WELL, "broker": AWAY}, Level.DOWN, "broker: no answer"),
        ({**WELL, "keyd": AWAY}, Level.DEGRADED, "keyd: no answer"),
        ({**WELL, "worker": AWAY}, Level.DEGRADED, "worker: no answer"),
        (but("broker", keyd=False), Level.DOWN, "nothing can be signed"),
        (but("broker", master=False), Level.DEGRADED, "no new workers"),
        (but("broker", master=False, workers=0), Level.DOWN, "no new workers"),
        (but("broker", workers=0), Level.DEGRADED, "no workers yet"),
        (but("broker", draining=True), Level.DEGRADED, "tlspool resume"),
        (but("broker", lag_ms={"p50": 101.0}), Level.DEGRADED, "101 ms late"),
        (but("broker", lag_ms={"p50": 20, "p99": 2000}), Level.FINE, ""),
        (but("broker", radius={"state": "ready"}), Level.FINE, ""),
        (but("broker", radius={"state": "not used"}), Level.FINE, ""),
        (but("broker", radius={"state": "absent"}), Level.DEGRADED, "the helper that speaks RADIUS is absent"),
        (but("keyd", locked=["pkcs11:"]), Level.DEGRADED, "keys unlock"),
        (but("keyd", waiting=65), Level.DEGRADED, "65 signatures wait"),
        (but("keyd", modules=[{"state": "PIN_WRONG", "wanted": T}]), Level.DEGRADED, f"{T}: PIN_WRONG"),
        (but("keyd", modules=[{"state": "ready", "tokens": [f"{T} PIN_MISSING"]}]), Level.DEGRADED, "PIN_MISSING"),
    ],
)
def test_verdicts(answers, level, why):
    found, reasons = judge(answers)
    assert found is level
    assert (not reasons) is (level is Level.FINE)
    assert why in " ".join(reasons)


def test_one_line():
    assert sentence(Level.FINE, WELL) == "fine: 1 session, 0 being set up, 2 workers, 1 token ready, generation 9"
    assert sentence(Level.DOWN, {**WELL, "broker": AWAY}) == "down"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["state", "tokens", "p50"]), inner),
    max_leaves=8,
)
_ANSWER = st.dictionaries(
    st.sampled_from(["ok", "keyd", "master", "workers", "lag_ms", "radius", "locked", "modules", "waiting", "error"]),
    _JSON,
)


@given(_ANSWER, _ANSWER, _ANSWER)
def test_whatever_daemons_say_there_is_a_verdict(broker, worker, keyd):
    answers = {"broker": broker, "worker": worker, "keyd": keyd}
    level, reasons = judge(answers)
    assert (level is Level.FINE) == (not reasons)
    assert all(text.isprintable() for text in [*reasons, sentence(level, answers)])
