"""The metrics of a whole pool: each row of the table is there, nothing else is, and it is OpenMetrics."""

import json
import os
import re
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import libstub
from tests.e2e.conftest import connect, make_pool, tlspool
from tests.fixtures.ports import free_port
from tlspool_common.errors import Code
from tlspool_common.metric_table import BY_NAME, DOMAINS, FREE, TABLE, Kind

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "grafana" / "tlspool.json"


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def pool(tmp_path_factory, port):
    directory = tmp_path_factory.mktemp("trail")
    made = make_pool(
        tmp_path_factory, "measured", "ec", f"metrics_listen 127.0.0.1:{port}", f"audit_dir {directory}", "workers 1"
    )
    yield made
    made.down()


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        return answer.read().decode()


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text, name, **labels):
    return sum(
        sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def await_value(port, name, least=1, seconds=20, **labels):
    deadline = time.monotonic() + seconds
    while value(text := scrape(port), name, **labels) < least:
        assert time.monotonic() < deadline, f"{name}{labels}: {value(text, name, **labels)}"
        time.sleep(0.05)
    return text


@pytest.fixture(scope="module")
def played(pool, port):
    """Do what there is to count; return the text."""
    from tests.e2e.conftest import EchoServer

    server = EchoServer(pool, remote_auth="require")
    try:
        options = {"localid": "tlspool.arpa2.lab", "remoteid": "localhost"}
        with libstub.Pool(str(pool.socket)) as client_pool:
            for remoteid in ("localhost", "playground.arpa2.lab"):
                with connect(server.port) as sock:
                    try:
                        with libstub.starttls_client(
                            sock, pool=client_pool, **{**options, "remoteid": remoteid}
                        ) as client:
                            client.sock.sendall(b"x" * 1000)
                            left = 1000
                            while left:
                                left -= len(client.sock.recv(left))
                    except libstub.PoolError as error:
                        assert error.code == Code.REMOTE_ALERT
        await_value(port, "tlspool_sessions_ended_total", 2, reason="clean")
        with libstub.Pool(str(pool.socket)) as other, socket.socket() as unconnected, pytest.raises(libstub.PoolError):
            libstub.starttls_server(unconnected, pool=other, localid="localhost")
        spare = json.loads(tlspool(pool, "workers", "--json").stdout)["workers"][0]["pid"]
        os.kill(spare, signal.SIGKILL)
        await_value(port, "tlspool_worker_deaths_total", meaning="signal")
        return await_value(port, "tlspool_worker_forks_total", 2)
    finally:
        server.close()


def test_each_metric_of_the_table_is_there_and_no_other(played):
    found = families(played)
    assert set(found) == set(BY_NAME)
    for metric in TABLE:
        family = found[metric.name]
        assert family.type == metric.kind.value
        assert family.unit == metric.unit
        assert family.documentation
        if metric.name == "tlspool_log_lines_withheld":
            continue
        assert family.samples, metric.name


def test_labels_are_those_of_the_table_with_values_that_are_known(played):
    for name, family in families(played).items():
        for sample in family.samples:
            labels = dict(sample.labels)
            if BY_NAME[name].kind is Kind.HISTOGRAM and sample.name.endswith("_bucket"):
                labels.pop("le")
            assert tuple(labels) == BY_NAME[name].labels, sample
            for label, word in labels.items():
                assert label in FREE or word in (*DOMAINS[label], "other"), sample


def test_the_numbers_are_those_of_what_happened(played):
    def of(name, **labels):
        return value(played, name, **labels)

    assert of("tlspool_up") == 3
    assert of("tlspool_handshakes_total", outcome="done", version="TLSv1.3", group="X25519MLKEM768") == 2
    assert of("tlspool_handshakes_total", outcome="done", side="server") == 1
    assert of("tlspool_handshakes_total", outcome="refused", side="server", group="none") == 1
    assert of("tlspool_handshakes_total", outcome="failed", side="client", version="none") == 1
    assert of("tlspool_refusals_total", rule="sni_mismatch") == of("tlspool_refusals_total", rule="remote_alert") == 1
    assert of("tlspool_commands_refused_total", rule="cipher_fd_unfit") == 1
    assert of("tlspool_handshake_seconds_count") == 2
    assert 0 < of("tlspool_handshake_seconds_sum") < 40
    assert of("tlspool_session_bytes_total", direction="from_remote") == 2000
    assert of("tlspool_session_bytes_total", direction="to_remote") == 2000
    assert of("tlspool_sessions_started_total") == of("tlspool_sessions_ended_total") == 2
    signed = of("tlspool_key_operations_total", result="ok", scheme="ecdsa_secp256r1_sha256")
    assert signed == of("tlspool_key_token_seconds_count") == of("tlspool_key_queue_seconds_count") >= 2
    assert of("tlspool_key_operations_total", token="pkcs11:token=tlspool-dev") == signed
    assert 0 < of("tlspool_key_token_seconds_sum") < 10
    assert of("tlspool_database_changes_total", database="localid.set") == 5
    assert of("tlspool_database_generation") == of("tlspool_database_history") + 1 == 9
    assert of("tlspool_audit_trail", trail="written") == 2
    assert of("tlspool_audit_records_total", daemon="broker") > 10
    assert of("tlspool_worker_forks_total") >= 2
    assert of("tlspool_descriptors", daemon="keyd") > 3
    assert of("tlspool_memory_bytes", daemon="worker") > 1_000_000


def test_nobody_is_named(played):
    for canary in ("tlspool.arpa2.lab", "playground", "127.0.0.1", "pytest"):
        assert canary not in played


@pytest.mark.parametrize("name", ["broker", "worker", "keyd"])
def test_the_control_sockets_tell_their_own(pool, name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(pool.run_dir / f"{name}.sock"))
        sock.sendall(b"metrics\n")
        text = ""
        while not text.endswith("# EOF\n"):
            text += sock.recv(65536).decode()
    letter = {"broker": "B", "worker": "W", "keyd": "K"}[name]
    assert set(families(text)) == {metric.name for metric in TABLE if letter in metric.daemons}
    shown = tlspool(pool, "metrics", name).stdout
    assert set(families(shown)) == set(families(text))


def test_the_command_tells_all_of_them(pool, played):
    assert set(families(tlspool(pool, "metrics").stdout)) == set(BY_NAME)
    answer = json.loads(tlspool(pool, "metrics", "--json").stdout)
    assert answer["metrics"]["tlspool_up"][0] == {"name": "tlspool_up", "labels": {"daemon": "broker"}, "value": 1.0}


def test_a_daemon_that_does_not_answer_is_down(tmp_path_factory):
    port = free_port()
    pool = make_pool(tmp_path_factory, "down", "ec", f"metrics_listen 127.0.0.1:{port}")
    try:
        running = pool.running()
        os.kill(running["worker"], signal.SIGKILL)
        os.kill(running["keyd"], signal.SIGSTOP)
        try:
            begin = time.monotonic()
            text = await_value(port, "tlspool_up", daemon="broker")
            assert time.monotonic() - begin < 8
            up = {sample.labels["daemon"]: sample.value for sample in families(text)["tlspool_up"].samples}
            assert up == {"broker": 1, "worker": 0, "keyd": 0}
        finally:
            os.kill(running["keyd"], signal.SIGCONT)
    finally:
        pool.down()


# --- the dashboard ------------------------------------------------------------------------------------------------


def expressions():
    """Yield (title, expression) of all panels."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


SUFFIXES = {
    Kind.COUNTER: ("_total",),
    Kind.GAUGE: ("",),
    Kind.INFO: ("_info",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
}


def test_the_dashboard_asks_for_what_there_is():
    known = {metric.name + suffix: metric for metric in TABLE for suffix in SUFFIXES[metric.kind]}
    asked = set()
    found = list(expressions())
    assert len(found) > 20
    for title, expression in found:
        names = re.findall(r"\btlspool_\w+", expression)
        assert names, title
        assert set(names) <= set(known), (title, set(names) - set(known))
        asked |= set(names)
        labels = {label for name in names for label in known[name].labels} | {"le", "instance", "job"}
        for selector in re.findall(r"\{([^}]*)\}", expression):
            for label, word in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector):
                assert label in labels, (title, label)
                if label in DOMAINS and "$" not in word:
                    assert set(word.split("|")) <= {*DOMAINS[label], "other", "none"}, (title, word)
        for grouping in re.findall(r"\bby\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in grouping.split(",")} <= labels, (title, grouping)
    assert len({known[name].name for name in asked}) > 30


def test_the_dashboard_can_be_imported():
    board = json.loads(DASHBOARD.read_text())
    assert board["title"] == "TLS pool"
    assert board["id"] is None
    (source,) = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert source["query"] == "prometheus"
    seen = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert panel["id"] not in seen
        seen.add(panel["id"])
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == f"${{{source['name']}}}"
            assert panel["description"]
