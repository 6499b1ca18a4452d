"""The tools of earlier pools: names, order of arguments, exit status; and the defects that they have no more."""

import configparser
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_admin import legacy, where

URI = "pkcs11:token=t;object=x"
SETUP = Path(__file__).parents[2] / "setup.cfg"
TOOLS = {
    "tlspool-configvar": legacy.configvar,
    "tlspool-db-have": legacy.db_have,
    "tlspool-disclose-get": legacy.disclose_get,
    "tlspool-disclose-set": legacy.disclose_set,
    "tlspool-localid-get": legacy.localid_get,
    "tlspool-localid-set": legacy.localid_set,
    "tlspool-trust-get": legacy.trust_get,
    "tlspool-trust-set": legacy.trust_set,
}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "conf").write_text(f"run_dir {tmp_path}\ndbenv_dir {tmp_path}/db\nlog_level info\nlog_level debug\n")
    (tmp_path / "leaf.pem").write_bytes(certs.intermediate().issue("www.example").pem + certs.intermediate().pem)
    (tmp_path / "root.der").write_bytes(certs.root().der)
    return tmp_path


@pytest.fixture
def run(home, capsys):
    def run(tool, *words, code=0):
        capsys.readouterr()
        assert tool([str(home / "conf"), *map(str, words)]) == code
        return capsys.readouterr()

    return run


def test_each_tool_is_installed():
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    installed = dict(
        line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].splitlines() if " = " in line
    )
    for name, tool in TOOLS.items():
        assert installed[name] == f"tlspool_admin.legacy:{tool.__name__}"


@pytest.mark.parametrize("tool", [tool for name, tool in TOOLS.items() if name != "tlspool-configvar"])
def test_usage(tool, capsys):
    assert tool([]) == 1
    assert "usage: tlspool-" in capsys.readouterr().err
    assert tool(["--help"]) == 0
    assert "CONF" in capsys.readouterr().out
    assert tool(["/nonexistent", "a", "x509", "00"][: 4 if tool is not legacy.db_have else 1][:2] + []) in (0, 1)


def test_the_databases_are_made(run, home):
    run(legacy.db_have)
    assert {"localid.db", "disclose.db", "trust.db"} <= {path.name for path in (home / "db").iterdir()}


def test_local_identities(run, home):
    run(legacy.localid_set, "www.example", "X.509,server", URI, home / "leaf.pem")
    run(legacy.localid_set, "www.example", "x509,cli", f"{URI}2", home / "leaf.pem")
    run(legacy.localid_set, "www.example", "valexp,server", "T", "/dev/null")
    told = run(legacy.localid_get, "www.example", "x509", home / "out")
    assert f"x509,server,chained {URI} " in told.out  # setting the one has not deleted the other
    assert f"x509,client,chained {URI}2 " in told.out
    # a chain of several is marked as one, and written as the databases have it
    chain = certs.intermediate().issue("www.example"), certs.intermediate()
    assert (home / "out").read_bytes().endswith(chain[1].der)
    assert "valexp,server T" in run(legacy.localid_get, "www.example", "valexp").out
    run(legacy.localid_set, "www.example", "valexp,server")
    run(legacy.localid_get, "www.example", "valexp", code=1)
    assert "PUBFILE" in run(legacy.localid_set, "www.example", "x509,server", URI, code=1).err
    # types are no bits: this once made a valexp
    assert (
        "x509 and kerberos"
        in run(legacy.localid_set, "www.example", "X.509,Kerberos", URI, home / "leaf.pem", code=1).err
    )


def test_disclosure(run, home):
    run(legacy.localid_set, "www.example", "x509,client", URI, home / "leaf.pem")
    assert "nobody.example" in run(legacy.disclose_set, "@.", "nobody.example", code=1).err
    run(legacy.disclose_set, "@.", "www.example")
    told = run(legacy.disclose_get, "jane@example.org").out.splitlines()
    assert told[0] == "jane@example.org: absent"
    assert told[-2:] == ["@.: present", "www.example"]
    assert run(legacy.disclose_get, "@.").out  # an empty user was refused here
    run(legacy.disclose_set, "@.")
    run(legacy.disclose_get, "@.", code=1)


def test_trust(run, home):
    key = certs.root().key_identifier.hex()
    sha256 = hashlib.sha256(certs.root().der).hexdigest()
    run(legacy.trust_set, "x509,client,notroot", key, "1", home / "root.der")
    (home / "pin").write_bytes((2**31).to_bytes(4, "big"))
    run(legacy.trust_set, "x509,pinned,client", sha256, "1", home / "pin")
    (home / "revoked").write_bytes(bytes.fromhex("0000000100000000020105"))
    run(legacy.trust_set, "x509,revoke,client", key, "1", home / "revoked")
    # anchors, pins and revocations of one key are kept apart
    assert "x509,client,notroot 1" in run(legacy.trust_get, "x509", key, home / "out").out
    assert (home / "out").read_bytes() == certs.root().der
    run(legacy.trust_get, "x509,pinned", sha256, home / "out")
    assert (home / "out").read_bytes() == (home / "pin").read_bytes()
    run(legacy.trust_get, "x509,revoke", key, home / "out")
    assert (home / "out").read_bytes() == (home / "revoked").read_bytes()
    run(legacy.trust_set, "x509,client", key, "1")
    run(legacy.trust_get, "x509", key, code=1)
    assert run(legacy.trust_get, "x509,revoke", key).out


def test_variables(home, capsys, monkeypatch):
    assert legacy.configvar(["-c", str(home / "conf"), "log_level", "run_dir"]) == 0
    assert capsys.readouterr().out == f"debug\n{home}\n"  # the last one counts, as it does for the daemons
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(home / "conf"))
    assert legacy.configvar(["run_dir", "absent"]) == 1
    told = capsys.readouterr()
    assert told.out == f"{home}\n"
    assert "absent is not in" in told.err
    assert legacy.configvar([]) == 1
    assert legacy.configvar(["-c", str(home / "none"), "x"]) == 1


@given(st.binary(max_size=100))
def test_any_file_has_values(data):
    assert all(keyword for keyword in where.values_untrusted(data))
