"""What is counted, by the table; and that labels never hold what somebody outside chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker.session import State
from tlspool_common import metrics as module
from tlspool_common.event_table import TABLE as EVENTS
from tlspool_common.metric_table import BY_NAME, DAEMONS, DOMAINS, EXITS, FREE, SCHEMES, STATES, TABLE, Kind
from tlspool_common.metrics import Metrics, by_state
from tlspool_keyd.schemes import Scheme
from tlspool_worker.exits import Exit

START = {"session": 1, "side": "server", "version": "TLSv1.3", "group": "X25519MLKEM768", "ms": 12.0}


def numbers(metrics, name, readings=()):
    return {(one.name, *one.labels.values()): one.value for one in metrics.samples(readings)[name]}


def test_a_session():
    metrics = Metrics("B")
    metrics.read("session.start", START)
    assert numbers(metrics, "tlspool_handshakes") == {
        ("tlspool_handshakes_total", "done", "server", "TLSv1.3", "X25519MLKEM768"): 1
    }
    assert numbers(metrics, "tlspool_sessions_started") == {
        ("tlspool_sessions_started_total", "server"): 1,
        ("tlspool_sessions_started_total", "client"): 0,
    }
    metrics.read("session.end", {**START, "reason": "clean", "from_remote_b": 7, "to_remote_b": 9, "ms": 1500})
    assert numbers(metrics, "tlspool_session_bytes") == {
        ("tlspool_session_bytes_total", "from_remote"): 7,
        ("tlspool_session_bytes_total", "to_remote"): 9,
    }
    assert numbers(metrics, "tlspool_sessions_ended")["tlspool_sessions_ended_total", "clean"] == 1


def test_a_histogram():
    metrics = Metrics("B")
    for ms in (1.0, 2.0, 3.0, 10_000_000.0):
        metrics.read("session.start", {**START, "ms": ms})
    found = numbers(metrics, "tlspool_handshake_seconds")
    assert found["tlspool_handshake_seconds_bucket", "server", "0.002"] == 2
    assert found["tlspool_handshake_seconds_bucket", "server", "0.005"] == 3
    assert found["tlspool_handshake_seconds_bucket", "server", "40.0"] == 3
    assert found["tlspool_handshake_seconds_bucket", "server", "+Inf"] == 4
    assert found["tlspool_handshake_seconds_count", "server"] == 4
    assert found["tlspool_handshake_seconds_sum", "server"] == pytest.approx(10_000.006)
    assert found["tlspool_handshake_seconds_count", "client"] == 0


def test_signatures():
    metrics = Metrics("K")
    done = {"scheme": "ed25519", "token": "pkcs11:token=a", "queue_ms": 1.0, "token_ms": 30.0}
    metrics.read("sign.done", done)
    metrics.read("sign.refused", {"scheme": "0x0201", "why": "GRANT_USED", "token": ""})
    metrics.read("sign.refusals_withheld", {"count": 12})
    assert numbers(metrics, "tlspool_key_operations") == {
        ("tlspool_key_operations_total", "ed25519", "ok", "pkcs11:token=a"): 1,
        ("tlspool_key_operations_total", "other", "grant_used", "none"): 1,
        ("tlspool_key_operations_total", "none", "withheld", "none"): 12,
    }
    assert numbers(metrics, "tlspool_key_token_seconds")["tlspool_key_token_seconds_sum", "pkcs11:token=a"] == 0.03


def test_workers_that_end():
    metrics = Metrics("W")
    for status in (0, 11, 137, 99, 11):
        metrics.read("worker.gone", {"status": status})
    found = {labels[1]: value for labels, value in numbers(metrics, "tlspool_worker_deaths").items() if value}
    assert found == {"ok": 1, "bug": 2, "signal": 1, "other": 1}


def test_readings():
    metrics = Metrics("B", clock_s=lambda: 7.0)
    found = numbers(metrics, "tlspool_sessions", by_state("tlspool_sessions", "state", {"relaying": 3}))
    assert found["tlspool_sessions", "relaying"] == 3
    assert len(found) == len(STATES)
    assert numbers(metrics, "tlspool_uptime_seconds") == {("tlspool_uptime_seconds", "broker"): 0}
    assert numbers(metrics, "tlspool_descriptors")["tlspool_descriptors", "broker"] > 2


def test_where_proc_is_shut(monkeypatch):
    def refuse(_path):
        raise PermissionError

    monkeypatch.setattr(module.os, "listdir", refuse)
    assert numbers(Metrics("K"), "tlspool_memory_bytes")["tlspool_memory_bytes", "keyd"] > 1_000_000


@given(
    st.sampled_from(sorted(EVENTS)),
    st.dictionaries(st.sampled_from(sorted(START)), st.text() | st.integers(), max_size=5),
)
def test_no_fact_makes_a_label_that_is_not_in_the_table(event, fields):
    for letter in DAEMONS:
        metrics = Metrics(letter)
        metrics.read(
            event, {name: fields.get(name, "x") for name in (*START, "rule", "why", "reason", "cmd", "of", "scheme")}
        )
        for samples in metrics.samples().values():
            for sample in samples:
                for label, word in sample.labels.items():
                    assert label in (*FREE, "le") or word in (*DOMAINS[label], "other")


def test_lines_of_a_configuration_are_few():
    metrics = Metrics("K")
    for number in range(1000):
        metrics.read("sign.refused", {"scheme": "ed25519", "why": "TOKEN_GONE", "token": f"pkcs11:token={number}"})
    assert len(numbers(metrics, "tlspool_key_operations")) == module._FREE_VALUES + 1


# --- the table --------------------------------------------------------------------------------------------


def test_words_of_the_table_are_those_of_the_daemons():
    assert set(STATES) == {state.name.lower() for state in State} - {"over"}
    assert {int(code): code.name.lower() for code in Exit} == EXITS
    assert set(SCHEMES) == {scheme.name.lower() for scheme in Scheme}


def test_operations_of_the_table_are_those_of_the_broker():
    from tlspool_broker.admin import WRITES

    assert set(DOMAINS["database"]) == set(WRITES)


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_names_follow_the_rules_of_openmetrics(metric):
    assert metric.name.startswith("tlspool_")
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_info", "_created"))
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
    assert BY_NAME[metric.name] is metric
    assert set(metric.daemons) <= set(DAEMONS)
    assert set(metric.labels) <= set(DOMAINS) | set(FREE)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert metric.doc
    assert not metric.doc.endswith(".")
    for source in metric.sources:
        assert {*source.labels, "daemon"} >= set(metric.labels) >= set(source.labels)
    if len(metric.daemons) > 1:
        assert metric.labels[0] == "daemon"
