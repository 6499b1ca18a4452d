"""What the package's scripts do as root, with stand-ins for what is the host's.

tests/system has them on a host of its own.
"""

import os
import subprocess

import pytest

from tests.fixtures.native import ROOT
from tlspool_common import limits

DEBCONF = 'db_get() { RET=$PIN; }\ndb_set() { :; }\ndb_fset() { :; }\nrunuser() { shift 3; AS=keyd "$@"; }\n'
TOKEN_KEYS = "/usr/lib/tlspool/bin/tlspool-token-keys"


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make_token(directory, pin):
    """Run make_token of debian/postinst; return what was done and as whom, the PIN the token got, and what was said."""
    tools = directory / "tools"
    tools.mkdir()
    done, given = directory / "done", directory / "given"
    program(tools / "install", f'echo "${{AS:-root}} $*" >>{done}\nexec /usr/bin/install "$@"')
    program(tools / "token-keys", f"cat >{given}")
    program(tools / "systemd-creds", 'for last; do :; done; cat >"$last"')
    text = (ROOT / "debian/postinst").read_text()
    body = "make_token() {" + text.partition("make_token() {")[2].partition("\n}\n")[0] + "\n}\n"
    assert TOKEN_KEYS in body
    body = body.replace(TOKEN_KEYS, str(tools / "token-keys")).replace("/etc/", f"{directory}/etc/")
    places = f"tokens={directory}/keyd/tokens credential={directory}/etc/credstore.encrypted/pin\n"
    (directory / "keyd").mkdir()
    (directory / "etc").mkdir()
    ran = subprocess.run(
        ["/bin/sh", "-ec", f"{DEBCONF}{places}{body}make_token"],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "PIN": pin},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return (
        done.read_text().splitlines() if done.exists() else [],
        given.read_text() if given.exists() else None,
        ran.stderr,
    )


def test_only_keyd_touches_what_is_keyds(tmp_path):
    """In a directory of keyd's there may be links, which root would follow."""
    done, given, said = make_token(tmp_path, "")
    assert (tmp_path / "keyd/tokens").stat().st_mode & 0o777 == 0o700
    inside = [line for line in done if str(tmp_path / "keyd") in line]
    assert inside
    assert all(line.startswith("keyd ") for line in inside), inside
    assert given is not None
    assert len(given) == 24
    assert (tmp_path / "etc/credstore.encrypted/pin").read_text() == given
    assert not said


@pytest.mark.parametrize("pin", ["1234", "a" * limits.PIN_B])
def test_pins_that_fit(tmp_path, pin):
    _, given, said = make_token(tmp_path, pin)
    assert (given, said) == (pin, "")


@pytest.mark.parametrize("pin", ["123", "a" * (limits.PIN_B + 1), "12 34", "12345-", "pässword"])
def test_pins_that_do_not(tmp_path, pin):
    """Of those that are too long the token would take some, and keyd none."""
    done, given, said = make_token(tmp_path, pin)
    assert (done, given) == ([], None)
    assert "tlspool/pin: a PIN is four to 127 letters and digits" in said
    assert "dpkg-reconfigure" in said
    assert pin not in said


def test_the_question_says_the_same():
    assert f"Four to {limits.PIN_B} letters and digits" in (ROOT / "debian/templates").read_text()
