"""Settings: upstream's syntax, checked whole, every refusal names setting, value and remedy."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import settings
from tlspool_common.errors import Code
from tlspool_common.settings import AppSocket, Pkcs11Module, SettingError, load, parse_untrusted


def test_an_empty_file_gives_the_defaults():
    found = parse_untrusted("")
    assert found.socket_name == Path("/run/tlspool/tlspool.sock")
    assert found.handshake_timeout_s == 40.0
    assert found.broker_uid == found.worker_uid == found.keyd_uid == os.getuid()
    for option in settings.TABLE:
        assert hasattr(found, option.name)


def test_several_application_sockets():
    found = parse_untrusted(
        "socket_name /run/a\nsocket_mode 0660\nsocket_group 17\nsocket_user 4\nsocket_name /run/b\n"
        "socket_mode 0600\nsocket_name /run/c\n"
    )
    assert found.sockets == (
        AppSocket(Path("/run/a"), 0o666, -1, -1),
        AppSocket(Path("/run/b"), 0o660, 4, 17),
        AppSocket(Path("/run/c"), 0o600, 4, 17),
    )
    assert (found.socket_name, found.socket_mode) == (Path("/run/a"), 0o666)


@pytest.mark.parametrize("text", ["socket_name /a\nsocket_mode 0600\n", "socket_mode 0600\nsocket_name /a\n"])
def test_of_one_socket_everything_may_be_said_in_any_order(text):
    assert parse_untrusted(text).sockets == (AppSocket(Path("/a"), 0o600, -1, -1),)


def test_the_socket_that_needs_no_line():
    found = parse_untrusted("run_dir /x\nsocket_mode 0600\nsocket_user 0\nsocket_group 0\n")
    assert found.sockets == (AppSocket(Path("/x/tlspool.sock"), 0o600, 0, 0),)


def test_comments_blank_lines_and_repeated_modules():
    found = parse_untrusted(
        "# a comment\n\nrun_dir /tmp/x\npkcs11_path /a.so\npkcs11_token pkcs11:token=A\n"
        "pkcs11_token pkcs11:token=B\npkcs11_path /b.so\npkcs11_token pkcs11:\nworkers 3\nworkers 4\ndeny_facilities \n"
    )
    assert found.socket_name == Path("/tmp/x/tlspool.sock")
    assert found.pkcs11 == (
        Pkcs11Module("/a.so", "pkcs11:token=A"),
        Pkcs11Module("/a.so", "pkcs11:token=B"),
        Pkcs11Module("/b.so", "pkcs11:"),
    )
    assert found.workers == 4
    assert found.deny_facilities == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense 1\n", r"nonsense '1': line 1: no such setting"),
        ("workers\n", r"line 1 'workers': write `keyword value`"),
        (" workers 1\n", "no indentation"),
        ("workers 0\n", "workers '0': must be a whole number from 1 to 64"),
        ("workers \u0664\n", "must be a whole number"),
        ("handshake_timeout_s nan\n", "must be a number of seconds"),
        ("run_dir run\n", "must be an absolute path"),
        ("socket_mode 999\n", "must be an octal mode"),
        ("broker_user no-such-user-here\n", "names no user"),
        ("isolation some\n", "must be one of application, connection, pool"),
        ("tls_groups a;b\n", "must be a list in OpenSSL's syntax"),
        ("pkcs11_token pkcs11:\n", "behind a pkcs11_path line"),
        ("pkcs11_path lib.so\n", "must be an absolute path"),
        ("socket_group no-such-group-here\n", "names no group"),
        ("socket_name /a\nsocket_name /b\nsocket_mode 0600\n", "behind the last of several socket_name"),
        ("socket_name /a\nsocket_name /a\n", "needs its own path"),
        ("session_end never\n", "must be one of connection, relay"),
        ("reattach root\n", "must be one of user, anybody"),
        ("sni_rule lax\n", "must be one of application, strict"),
        ("access a\n", "allow or deny"),
        ("tls_min_version 1.3\ntls_max_version 1.2\n", "must not be above tls_max_version"),
        ("run_dir /" + "x" * 5000 + "\n", "at most 4096 bytes"),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(SettingError, match=said) as caught:
        parse_untrusted(text)
    assert caught.value.code is Code.SETTING_INVALID


def test_upstreams_other_keywords_are_warned_about():
    assert parse_untrusted("ldap_proxy ldap://x\n").warnings == ("line 1: ldap_proxy has no effect in this version",)


def test_unreadable_files(tmp_path):
    with pytest.raises(SettingError, match="No such file"):
        load(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"run_dir \xff\n")
    with pytest.raises(SettingError, match="not UTF-8"):
        load(tmp_path / "binary")
    (tmp_path / "big").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(SettingError, match="more than"):
        load(tmp_path / "big")


@given(st.text(max_size=300))
def test_any_text_is_settings_or_a_refusal(text):
    with suppress(SettingError):
        parse_untrusted(text)


def test_default_path_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", "/x/y")
    assert settings.default_path() == Path("/x/y")
    monkeypatch.delenv("TLSPOOL_CONFIG_FILE")
    assert settings.default_path() == Path("/etc/tlspool.conf")
