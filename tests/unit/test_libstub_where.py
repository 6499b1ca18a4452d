"""Where the pool's socket is: argument, environment, configuration, default."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstub import DEFAULT_SOCKET, Misuse, socket_path, where


def test_the_order_of_places(tmp_path, monkeypatch):
    monkeypatch.setattr(where, "DEFAULT_CONFIG", str(tmp_path / "default.conf"))
    named = tmp_path / "named.conf"
    named.write_text("socket_name /from/named\n")
    everything = {"TLSPOOL_SOCKET": "/from/variable", "TLSPOOL_CONFIG_FILE": str(named)}
    assert socket_path("/from/argument", everything) == "/from/argument"
    assert socket_path(tmp_path, {}) == str(tmp_path)
    assert socket_path(None, everything) == "/from/variable"
    assert socket_path(None, {"TLSPOOL_CONFIG_FILE": str(named)}) == "/from/named"
    assert socket_path(None, {}) == DEFAULT_SOCKET
    (tmp_path / "default.conf").write_text("# x\nrun_dir /from/default\n")
    assert socket_path(None, {}) == "/from/default/tlspool.sock"


def test_the_environment_of_the_process_counts(monkeypatch):
    monkeypatch.setenv("TLSPOOL_SOCKET", "/from/environ")
    assert socket_path() == "/from/environ"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ("socket_name relative\n", None),
        ("run_dir /a\nsocket_name /b\n", "/b"),
        ("socket_name /b \nother x\n", "/b"),
        ("#socket_name /b\n socket_name /c\n", None),
        ("socket_name /1\nsocket_name /2\n", "/1"),
    ],
)
def test_what_counts_in_a_configuration(text, path):
    assert where.socket_name_untrusted(text) == path


@given(st.text())
def test_any_configuration_is_read(text):
    found = where.socket_name_untrusted(text)
    assert found is None or found.startswith("/")


@pytest.mark.parametrize("path", ["/" + "x" * 107, "/ä" * 54, "/a\0b"])
def test_no_path_of_a_socket(path):
    with pytest.raises(Misuse, match="cannot be the path"):
        socket_path(path, {})


def test_a_named_configuration_must_be_there(tmp_path):
    with pytest.raises(Misuse, match="cannot be read: No such file"):
        socket_path(None, {"TLSPOOL_CONFIG_FILE": str(tmp_path / "nothing")})
