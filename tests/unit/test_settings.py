"""Settings: upstream's syntax, checked whole, every refusal names setting, value and remedy."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker.validation import expression
from tlspool_common import setting_kinds, setting_table, settings
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import AppSocket, Part, Pkcs11Module, SettingError, load, parse_untrusted


def test_an_empty_file_gives_the_defaults():
    found = parse_untrusted("")
    assert found.socket_name == Path("/run/tlspool/tlspool.sock")
    assert found.handshake_timeout_s == 40.0
    assert found.broker_uid == found.worker_uid == found.keyd_uid == os.getuid()
    assert found.warnings == ()
    for option in settings.TABLE:
        assert hasattr(found, option.name + "_secret" * option.secret)


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
        ("nonsense 1\n", "line 1: nonsense: no such setting; see docs"),
        ("workers\n", "line 1: workers: write `keyword value`"),
        ("worker 3\n", "line 1: worker: no such setting; is it workers"),
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


KEYWORDS = {
    "daemon_pidfile": "/var/run/tlspool.pid",
    "socket_user": "0",
    "socket_group": "0",
    "socket_mode": "0666",
    "socket_name": "/var/run/tlspool.sock",
    "daemon_chroot": "/var/tlspool",
    "daemon_user": "tlspool",
    "daemon_group": "tlspool",
    "log_level": "DEBUG",
    "log_filter": "TLS,PKCS11 DB",
    "log_stderr": "*",
    "allow_facilities": "starttls,startgss",
    "deny_facilities": "",
    "dbenv_dir": "/var/db",
    "db_localid": "localid.db",
    "db_disclose": "disclose.db",
    "db_trust": "trust.db",
    "pkcs11_path": "/usr/lib/softhsm/libsofthsm2.so",
    "pkcs11_pin": "1234 ",
    "pkcs11_token": "pkcs11:manufacturer=SoftHSM;token=TLS%20Pool",
    "tls_dhparamfile": "/var/db/dhparam.pkcs3",
    "tls_maxpreauth": "32768",
    "tls_onthefly_signcert": "file:/etc/flying.der",
    "tls_onthefly_signkey": "pkcs11:object=flying",
    "dnssec_rootkey": "/etc/unbound/root.key",
    "kerberos_client_keytab": "FILE:/etc/krb5.keytab",
    "kerberos_server_keytab": "/etc/krb5.keytab",
    "kerberos_client_credcache": "DIR:/tmp/krb5",
    "kerberos_server_credcache": "FILE:/tmp/krb5",
    "ldap_proxy": "ldap://localhost/",
    "memcache_ttl": "300",
    "memcache_port": "11211",
    "memcache_host": "localhost",
    "privacy_attempt": "no",
    "radius_authn": "::1",
    "radius_authz": "127.0.0.1:1812",
    "radius_acct": "radius.example.com",
    "quantum_proof_authentication": "no",
    "quantum_proof_encryption": "NO",
    "quantum_proof_handshake": "0",
}
"""Each keyword of the pool that the syntax is from, with a value as its documentation has them."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("radius_authz 127.0.0.1 [::1]:9", "radius_authz '127.0.0.1:1812 [::1]:9': needs"),
        ("audit_required yes", "audit_required 'yes': needs"),
        ("pkcs11_pin_file /pin\npkcs11_pin 1234", "pkcs11_pin_file '/pin': there is"),
    ],
)
def test_what_does_not_go_together_is_shown_as_a_file_has_it(text, shown):
    with pytest.raises(SettingError) as caught:
        parse_untrusted(text)
    assert shown in str(caught.value)
    assert "1234" not in str(caught.value)


def test_every_keyword_of_earlier_pools_is_known_and_acts_or_is_named_with_what_to_do():
    assert len(KEYWORDS) == 40
    silent = {"log_stderr", "privacy_attempt"}  # what they ask for is so anyway
    text = "".join(f"{name} {value}\n" for name, value in KEYWORDS.items())
    with pytest.raises(SettingError, match=r"radius_authn.* needs a radius_secret_file"):
        parse_untrusted(text)
    found = parse_untrusted(text + "radius_secret_file /etc/tlspool/radius.secrets\n")
    named = {warning.split()[2] for warning in found.warnings if warning.startswith("line ")}
    assert named == set(setting_table.UNUSED) - silent
    assert set(KEYWORDS) == named | silent | (set(KEYWORDS) & {*setting_table.BY_NAME, *setting_table.REPEATED})
    assert all(": " in warning.partition("has no effect")[2] for warning in found.warnings if "line" in warning)
    assert found.pkcs11_pin_secret == "1234 "
    assert found.log_level == "debug"


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, value in KEYWORDS.items() if name not in setting_table.BY_NAME and name[:6] != "pkcs11"],
)
def test_and_its_value_is_checked(name, value):
    assert parse_untrusted(f"{name} {value}\n")
    with pytest.raises(SettingError, match=f"line 1: {name} "):
        parse_untrusted(f"{name} \n")
    with pytest.raises(SettingError, match=name):
        parse_untrusted(f"{name} \0\n")


@pytest.mark.parametrize("word", ["YES", "Yes", "yes", "TRUE", "true", "YEP", "aye", "1"])
def test_words_that_mean_yes(word):
    assert parse_untrusted(f"quantum_proof_encryption {word}\n").quantum_proof_encryption


@pytest.mark.parametrize("word", ["= yes", "yes please", "yess", "2", ""])
def test_and_words_that_only_contain_one(word):
    with pytest.raises(SettingError, match="must be yes or no") as caught:
        parse_untrusted(f"quantum_proof_encryption {word}\n")
    assert ("without =" in str(caught.value)) == word.startswith("=")


def test_everything_that_is_wrong_is_told_at_once():
    with pytest.raises(SettingError) as caught:
        parse_untrusted("workers 0\n\nnonsense 1\n indented 1\nrun_dir x\ntls_min_version 1.3\ntls_max_version 1.2\n")
    assert [(problem.line, problem.keyword) for problem in caught.value.problems] == [
        (1, "workers"),
        (3, "nonsense"),
        (4, "indented"),
        (5, "run_dir"),
        (6, "tls_min_version"),
    ]
    for problem in caught.value.problems:
        assert problem.hint
        assert str(problem) in str(caught.value)
    assert caught.value.rows()[0] == {
        "line": 1,
        "keyword": "workers",
        "value": "0",
        "hint": "must be a whole number from 1 to 64",
    }


def test_and_a_file_that_is_none_at_all_does_not_fill_the_log():
    with pytest.raises(SettingError, match="and 480 more") as caught:
        parse_untrusted("x y\n" * 500)
    assert len(caught.value.problems) == 500
    assert len(str(caught.value)) < 4000


def test_of_a_keyword_that_stands_there_twice_the_last_line_counts():
    found = parse_untrusted("workers 3\nworkers 4\ncrl_file /a\ncrl_file /b\n")
    assert (found.workers, found.crl_file) == (4, (Path("/a"), Path("/b")))
    assert found.warnings == ("line 2: workers stands in line 1, too; the last one counts",)
    assert found.origins == {"workers": 2, "crl_file": 4}


def test_secrets_are_shown_nowhere():
    found = parse_untrusted("pkcs11_pin 4711\npkcs11_path /a.so\npkcs11_token pkcs11:token=A?pin-value=4712\n")
    shown = f"{found!r}{found.rows()}{found.warnings}"
    assert "4711" not in shown
    assert "4712" not in str(found.rows())
    for wrong in (
        "pkcs11_pin 4711\0\n",
        "pkcs11_pn 4711\n",
        "pkcs11_token x?pin-value=4711\n",
        "pkcs11_pin=4711\n",
        "pkcs11_pin: 4711\n",
        " pkcs11_pin 4711\n",
        "pkcs11_pin 4711\npkcs11_pin_file /x\n",
        "pkcs11_pin " + "4711" * 2000 + "\n",
    ):
        with pytest.raises(SettingError) as caught:
            parse_untrusted(wrong)
        assert "4711" not in f"{caught.value}{caught.value.rows()}", wrong


def test_a_pin_in_a_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "conf"
    path.write_text("workers 0\n# pkcs11_pin 1\npkcs11_pin 4711\n")
    path.chmod(0o640)
    with pytest.raises(SettingError, match="put the PIN into a file of keyd's own") as caught:
        load(path)
    assert [problem.keyword for problem in caught.value.problems] == ["workers", "pkcs11_pin"]
    path.chmod(0o600)
    path.write_text("pkcs11_pin 4711\n")
    assert load(path, Part.KEYD).pkcs11_pin_secret == "4711"
    for part in (Part.BROKER, Part.WORKER):
        assert "4711" not in repr(vars(load(path, part)))
    path.write_text("pkcs11_pin 4711\npkcs11_pin_file /x\n")
    with pytest.raises(SettingError, match="take one of them away"):
        load(path)


@pytest.mark.parametrize("part", list(Part))
def test_a_daemon_keeps_its_own_part_and_checks_the_whole(part):
    text = "pkcs11_path /a.so\npkcs11_token pkcs11:\npkcs11_pin 1\ndbenv_dir /db\nrelay python\naccess a allow\n"
    found = parse_untrusted(text, part)
    everything = parse_untrusted(text)
    for option in settings.TABLE:
        name = option.name + "_secret" * option.secret
        if part.value in option.parts:
            assert getattr(found, name) == getattr(everything, name)
        else:
            assert name not in vars(found)
            with pytest.raises(AttributeError, match=f"no setting of tlspool-{part.name.lower()}"):
                getattr(found, name)
    assert hasattr(found, "pkcs11") == (part is Part.KEYD)
    assert hasattr(found, "sockets") == hasattr(found, "access") == (part is Part.BROKER)
    with pytest.raises(SettingError):
        parse_untrusted("workers 0\npkcs11_sessions 0\nmax_sessions 0\nhandshake_threads 0\n", part)


def test_nobody_but_the_broker_learns_of_the_databases():
    for part in (Part.WORKER, Part.KEYD):
        assert "/secret/place" not in repr(vars(parse_untrusted("dbenv_dir /secret/place\n", part)))


def test_another_file_changes_what_may_change_and_names_the_rest():
    older = parse_untrusted("dbenv_dir /a\nmax_sessions 5\naccess a allow\n", Part.BROKER)
    newer = parse_untrusted("dbenv_dir /b\nmax_sessions 6\nlog_level debug\nsocket_mode 0600\n", Part.BROKER)
    assert older.changes(newer) == (
        ["max_sessions", "log_level", "access"],
        ["socket_mode", "dbenv_dir", "socket_name"],
    )
    older.adopt(newer)
    assert (older.max_sessions, older.log_level, older.access) == (6, "debug", ())
    assert (older.dbenv_dir, older.socket_mode) == (Path("/a"), 0o666)
    assert older.changes(newer) == ([], ["socket_mode", "dbenv_dir", "socket_name"])


def test_where_a_setting_comes_from():
    rows = {row["name"]: row for row in parse_untrusted("\nmax_sessions 5\n", Part.BROKER).rows()}
    assert rows["max_sessions"] == {"name": "max_sessions", "value": "5", "line": 2, "restart": False}
    assert rows["dbenv_dir"] == {"name": "dbenv_dir", "value": "/var/lib/tlspool/db", "line": 0, "restart": True}
    assert "relay" not in rows


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        ("", "intermediate", False),
        ("tls_policy modern\n", "modern", False),
        ("quantum_proof_encryption yes\n", "pq-required", False),
        ("quantum_proof_handshake yes\n", "pq-required", True),
        ("quantum_proof_authentication yes\n", "pq-required", False),
        ("quantum_proof_authentication yes\ntls_policy modern\n", "modern", True),
        ("tls_groups X25519\n", "intermediate", False),
        ("tls_groups X25519\ntls_policy modern\n", "modern", True),
    ],
)
def test_the_policy_of_the_host(text, policy, expected):
    found = parse_untrusted(text)
    assert found.tls_policy == policy
    assert bool(found.warnings) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tls_policy modern\ntls_max_version 1.2\n",
            "line 2: tls_max_version '1.2': leaves no version of tls_policy modern",
        ),
        ("quantum_proof_encryption yes\ntls_max_version 1.2\n", "leaves no version of tls_policy pq-required"),
        ("tls_policy best\n", "must be one of intermediate, modern, pq-required, fips-like"),
        ("validation T&\n", "& at character 2 needs 2 values"),
        ("validation TR\n", "2 values are left at the end"),
        ("validation TH&\n", "'H' at character 2 means nothing"),
        (f"validation T{'~' * 128}\n", "129 characters; at most 128 are read"),
        ("default_localid a..b\n", "must be an identity"),
        ("unknown_sni maybe\n", "must be one of refuse, default"),
        ("online_ports 80,0\n", "must be a whole number from 1 to 65535"),
        ("history_keep 10\n", "must be a whole number from 10000"),
        ("allow_facilities startls\n", "'startls' is no facility"),
        ("log_level loud\n", "must be one of debug, info, warning, error"),
        ("log_filter noise\n", "'noise' is none of"),
        ("crl_file relative\n", "must be an absolute path"),
    ],
)
def test_what_is_wrong_with_policy_is_named(text, said):
    with pytest.raises(SettingError, match=said):
        parse_untrusted(text)


@given(st.text(alphabet="TtRrIio01~&|?Hx ", max_size=12))
def test_expressions_are_those_that_the_engine_takes(text):
    try:
        expression.parse(text)
        taken = True
    except PoolError:
        taken = text == ""  # here the empty one means: none
    try:
        setting_kinds.EXPRESSION.cast(text)
        assert taken
    except ValueError:
        assert not taken


_TEXTS = {
    "validation": st.sampled_from(["", "T", "TR&I&", "Tt|"]),
    "default_localid": st.sampled_from(["localhost", "user@example.com"]),
    "tls_policy": st.sampled_from(["intermediate", "fips-like"]),
    "online_ports": st.lists(st.integers(1, 65535), max_size=4, unique=True).map(
        lambda found: " ".join(map(str, found))
    ),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    "allow_facilities": st.sampled_from(["", "*", "starttls", "starttls startssh"]),
    "tls_groups": st.sampled_from(["", "X25519:P-256", "?*X25519MLKEM768/?*X25519"]),
    "crl_file": st.sampled_from(["/a", "/b.pem"]),
    "pin_services": st.sampled_from(["0 17", "@4", ""]),
    "pkcs11_timeout_s": st.floats(0.1, 600).map(lambda number: f"{number:.6f}"),
    "validation_wait_s": st.floats(0.1, 60).map(lambda number: f"{number:.3f}"),
    "handshake_timeout_s": st.floats(0.1, 86400).map(lambda number: f"{number:.6f}"),
    "workers": st.integers(1, 64).map(str),
    "history_keep": st.integers(10_000, 10_000_000).map(str),
    "online": st.sampled_from(["yes", "no"]),
    "quantum_proof_encryption": st.sampled_from(["no"]),
    "dbenv_dir": st.sampled_from(["/db", "/a b/c"]),
    "db_trust": st.sampled_from(["t.db", "/x/t.db"]),
    "isolation": st.sampled_from(["application", "connection", "pool"]),
    "keyd_user": st.integers(0, 99999).map(str),
    "socket_mode": st.sampled_from(["0600", "660", "0666"]),
    "socket_user": st.integers(0, 99999).map(str),
}
_LINES = st.one_of([st.tuples(st.just(name), texts) for name, texts in _TEXTS.items()])
_SOCKETS = st.lists(st.sampled_from(["/run/a", "/run/b", "/run/c"]), unique=True, max_size=3)


@given(st.lists(_LINES, max_size=20), _SOCKETS, st.sampled_from(["", "m allow user=0", "m deny role=client"]))
def test_what_is_shown_is_read_as_the_same_settings(lines, sockets, rule):
    lines = [*lines, *(("socket_name", path) for path in sockets)]
    if rule:
        lines += [("access", rule)]
    lines += [("pkcs11_path", "/m.so"), ("pkcs11_token", "pkcs11:token=x")]
    found = parse_untrusted("".join(f"{name} {value}\n" for name, value in lines))
    shown = [(str(row["name"]), str(row["value"])) for row in found.rows()]
    again = parse_untrusted("".join(f"{name} {value}\n" for name, value in shown if value or name in dict(lines)))
    ours, theirs = vars(found) | {"origins": 0, "warnings": 0}, vars(again) | {"origins": 0, "warnings": 0}
    if not sockets:  # of one socket it is said what its mode is
        ours["socket_user"] = theirs["socket_user"] = None
    assert ours | {"socket_user": 0, "socket_group": 0} == theirs | {"socket_user": 0, "socket_group": 0}


@pytest.mark.parametrize("option", settings.TABLE, ids=lambda option: option.name)
def test_every_default_can_be_written_and_says_the_same(option):
    if option.default in (None, ()) and not option.repeated:
        return
    [shown] = option.shown(option.default)
    if option.repeated:
        assert option.default == ()
    else:
        assert option.kind.cast(shown) == option.default
    assert set(option.restart) <= set(option.parts) <= set("BWK")


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
