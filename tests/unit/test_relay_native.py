"""The way into C: what both sides must agree on, and what happens when the relay in C does not serve."""

import ctypes
import errno
import re

import pytest

from tests.fixtures.native import NATIVE, shared
from tlspool_common.messages import EndReason
from tlspool_worker import relay, relay_native, tls
from tlspool_worker.poller import Poller
from tlspool_worker.relay import Flow, Surroundings
from tlspool_worker.relay_native import Library, State, Threads, Unusable, surroundings

HEADER = (NATIVE / "relay.h").read_text()
SHARED = (NATIVE / "relay_session.h").read_text()


def enum(name):
    """Return the names of an enumeration in relay.h, in their order."""
    body = re.search(rf"enum {name} {{(.*?)}};", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S), re.S)[1]
    return [word.split("=")[0].strip() for word in body.split(",")]


def number(name):
    return eval(re.search(rf"\b{name} = ([0-9 *+()A-Z_]+)", SHARED)[1], {"CIPHER_B": tls.CIPHER_B})


def test_states_and_reasons_are_the_same():
    assert enum("relay_flow") == ["FLOWING", "ENDING", "DONE"] == [flow.name for flow in Flow]
    assert [flow.value for flow in Flow] == [1, 2, 3]
    assert [getattr(tls, name) for name in enum("relay_incoming")] == [0, 1, 2]
    assert enum("relay_reason") == [
        "NONE",
        *(reason.name for reason in EndReason if reason is not EndReason.WORKER_LOST),
    ]
    details = enum("relay_detail")
    assert details.index("DETAIL_ERRNO") == relay_native._DETAIL_ERRNO
    assert details.index("DETAIL_OPENSSL") == relay_native._DETAIL_OPENSSL
    assert {details.index(name) for name in details[3:]} == set(relay_native._DETAILS)


def test_sizes_are_the_same():
    for name in ("CIPHER_B", "PLAIN_B", "SMALL_B"):
        assert number(name) == getattr(tls, name)
    for name in ("UNSENT_B", "PACKET_B"):
        assert number(name) == getattr(relay, name)
    assert number("BATCH_B") == relay._BATCH_B
    assert number("PACKETS") == relay._PACKETS


def test_details_in_words():
    assert relay_native._detail(State(detail=relay_native._DETAIL_ERRNO, error=errno.EPIPE)) == "Broken pipe"
    assert relay_native._detail(State(detail=3)) == relay.NO_CLOSE_NOTIFY
    assert relay_native._detail(State()) == ""
    state = State(detail=relay_native._DETAIL_OPENSSL)
    state.queue[0] = 20 << 23 | 1000 + 40
    assert relay_native._detail(state).startswith("alert 40: ")


def test_a_library_that_is_not_there(tmp_path):
    with pytest.raises(Unusable, match="no-such"):
        Library(tmp_path / "no-such.so")


def test_a_library_of_another_version(tmp_path):
    for name in ("relay.c", "relay_thread.c", "relay_session.h"):
        (tmp_path / name).write_text((NATIVE / name).read_text())
    (tmp_path / "relay.h").write_text(HEADER.replace("RELAY_QUEUE = 8", "RELAY_QUEUE = 9"))
    made = shared(tmp_path / "other.so", tmp_path / "relay.c", tmp_path / "relay_thread.c", flags=("-pthread",))
    with pytest.raises(Unusable, match="another version"):
        Library(made)
    made = shared(tmp_path / "half.so", tmp_path / "relay.c", flags=())
    with pytest.raises(Unusable, match="lacks relay_open"):
        Library(made)


def test_an_openssl_that_lacks_something(monkeypatch):
    wrong = {"SSL_read": "int(*)(SSL *)", "SSL_no_such_function": "int(*)(SSL *)"}
    monkeypatch.setattr(relay_native, "FUNCTIONS", {**relay_native.FUNCTIONS, **wrong})
    assert "SSL_read, SSL_no_such_function by address" in relay_native.load()


def test_without_it_sessions_stay_in_python(monkeypatch, no_leaks):
    poller = Poller()
    monkeypatch.setattr(relay_native, "LOADED", "a reason")
    made, why_not = surroundings("native", poller, print)
    assert (type(made), why_not) == (Surroundings, "a reason")
    made.close()
    assert surroundings("python", poller, print)[1] == ""
    poller.close()


def test_no_thread(monkeypatch, no_leaks):
    poller = Poller()

    def fails(_openssl):
        ctypes.set_errno(errno.EAGAIN)

    monkeypatch.setattr(relay_native.LOADED, "open", fails)
    assert surroundings("native", poller, print)[1] == "no thread: Resource temporarily unavailable"
    poller.close()


def test_threads_come_and_go(no_leaks):
    for _ in range(20):
        poller = Poller()
        made = Threads(poller, print, relay_native.LOADED)
        poller.run_once(0)
        made.close()
        made.close()
        poller.close()
