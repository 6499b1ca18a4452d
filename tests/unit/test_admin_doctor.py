"""What the doctor finds: each ailment, its level, and a remedy."""

import datetime
import os
import socket
from pathlib import Path

import pytest

from tests.fixtures import certs
from tlspool_admin.commands.doctor import shown
from tlspool_admin.doctor import credentials, host, pool
from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, counts, exit_code, worst

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
URI = "pkcs11:token=t;object=www.example;type=private"
HELD = {"uri": "pkcs11:model=m;token=t;id=%01;object=www.example;type=private", "usable": True, "trouble": ""}


def b64(one):
    import base64

    return base64.b64encode(one.der).decode()


def identity(name="www.example", chain=None, uri=URI, **more):
    chain = [certs.root().issue(name)] if chain is None else chain
    record = {"flags": ["x509", "server"], "uri": uri, "chain": [{"der": b64(one)} for one in chain], **more}
    return {"id": name, "records": [record], "malformed": []}


def only(findings):
    (finding,) = findings
    assert finding.remedy or finding.level in (OK, NOTE)
    return finding


# --- levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "code"), [([], 0), ([OK, NOTE], 0), ([OK, WARNING], 3), ([WARNING, ERROR, NOTE], 1)]
)
def test_exit_status_is_by_the_worst(levels, code):
    findings = [Finding(level, "c", "s", "t") for level in levels]
    assert exit_code(findings) == code
    assert sum(counts(findings).values()) == len(levels)
    assert worst(findings) in (*levels, OK)


def test_the_worst_is_shown_first_and_what_is_in_order_only_on_request():
    findings = [
        Finding(OK, "a", "", "fine"),
        Finding(NOTE, "b", "", "hm\x1b[2J"),
        Finding(ERROR, "c", "x", "bad", "fix"),
    ]
    lines = shown(findings, everything=False).split("\n")
    assert lines == [
        "error   c: x bad",
        "        -> fix",
        "note    b: hm\\x1b[2J",
        "1 wrong, 0 doubtful, 1 noted, 1 in order",
    ]
    assert "fine" in shown(findings, everything=True)


# --- files and the host -------------------------------------------------------------------------------


def test_control_sockets(tmp_path):
    path = tmp_path / "broker.sock"
    assert only(host.control_socket(path, "tlspool-broker")).remedy.endswith("systemctl start tlspool-broker")
    path.touch()
    assert "no socket" in only(host.control_socket(path, "u")).text
    path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(0o666)
    found = only(host.control_socket(path, "u"))
    assert (found.level, found.remedy) == (ERROR, f"chmod 0660 {path}")
    path.chmod(0o660)
    assert only(host.control_socket(path, "u")).level == OK


def test_application_sockets(tmp_path):
    assert only(host.application_socket(tmp_path / "absent")).level == ERROR
    assert only(host.application_socket(tmp_path)).text == "is no socket"


def test_the_private_directory(tmp_path):
    tmp_path.chmod(0o755)
    assert only(host.private_directory(tmp_path)).level == ERROR
    tmp_path.chmod(0o700)
    assert only(host.private_directory(tmp_path)).level == OK
    assert only(host.private_directory(tmp_path / "absent")).level == WARNING


def test_the_file_of_the_pin(tmp_path):
    assert only(host.pin_file(None)).level == NOTE
    path = tmp_path / "pin"
    assert only(host.pin_file(path)).level == ERROR
    path.touch(0o600)
    assert "empty" in only(host.pin_file(path)).text
    path.write_text("1234")
    path.chmod(0o640)
    found = only(host.pin_file(path))
    assert found.level == ERROR
    assert "1234" not in str(found)
    path.chmod(0o600)
    assert only(host.pin_file(path)).level == OK


def test_libraries(tmp_path):
    assert only(host.modules([str(tmp_path / "absent.so")] * 2)).level == ERROR
    assert host.modules([os.__file__]) == []


def test_the_provider_loads():
    assert only(host.provider()).level == OK


def test_the_provider_is_ours_wherever_the_doctor_is_called(monkeypatch, tmp_path):
    """Root's working directory may be anybody's."""
    (tmp_path / "tlspool_worker.py").write_text("raise SystemExit('of somebody else')")
    monkeypatch.chdir(tmp_path)
    assert only(host.provider()).level == OK


def test_a_provider_that_does_not(monkeypatch):
    monkeypatch.setattr(host, "_PROBE", "raise SystemExit('tlspool_common.errors.PoolError: [702] no provider')")
    found = only(host.provider())
    assert (found.level, found.text) == (ERROR, "[702] no provider")


def test_the_clock(tmp_path):
    assert only(host.clock(NOW, None, synchronised=True)).level == OK
    assert only(host.clock(NOW, NOW + 2 * DAY, synchronised=True)).level == ERROR
    assert only(host.clock(NOW, NOW, synchronised=False)).level == NOTE
    assert host.kernel_clock_synchronised() in (True, False, None)
    assert host.written_at([tmp_path / "absent"]) is None
    assert host.written_at([tmp_path, Path("/")]) is not None


def test_the_configuration(tmp_path):
    assert only(host.configuration(tmp_path, [], [])).level == OK
    found = host.configuration(tmp_path, ["line 1: x"], ["y"])
    assert [one.level for one in found] == [ERROR, WARNING]


# --- daemons ------------------------------------------------------------------------------------------

WELL = {
    "broker": {"pid": 1, "protocol": 3, "keyd": True, "master": True, "workers": 2},
    "worker": {"pid": 2},
    "keyd": {"pid": 3},
}


def bad(findings):
    return [one for one in findings if one.level in (ERROR, WARNING)]


def test_daemons_that_are_well():
    assert bad(pool.daemons(WELL)) == []
    for state in ("ready", "not used"):
        assert bad(pool.daemons({**WELL, "broker": {**WELL["broker"], "radius": {"state": state}}})) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keyd": "no answer"}, "no answer"),
        ({"broker": "no answer"}, "no answer"),
        ({"broker": {**WELL["broker"], "keyd": False}}, "is not connected"),
        ({"broker": {**WELL["broker"], "master": False}}, "is not connected"),
        ({"broker": {**WELL["broker"], "workers": 0}}, "there are no workers"),
        ({"broker": {**WELL["broker"], "radius": {"state": "absent"}}}, "the helper that speaks RADIUS is absent"),
        ({"keyd": {"pid": 3, "protocol": 2}}, "protocols differ: broker speaks 3, keyd speaks 2"),
    ],
)
def test_daemons_that_are_not(change, text):
    assert text in only(bad(pool.daemons({**WELL, **change}))).text


@pytest.mark.parametrize(
    ("state", "level"),
    [("ready", OK), ("opening", NOTE), ("PIN_LOCKED", ERROR), ("PIN_MISSING", ERROR), ("TOKEN_FAILED", ERROR)],
)
def test_tokens(state, level):
    keyd = {"modules": [{"module": "/m.so", "wanted": "pkcs11:", "state": state}]}
    assert only(pool.tokens(keyd)).level == level
    assert only(pool.tokens({"modules": []})).level == ERROR


# --- keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "held", "level", "text"),
    [
        (URI, [HELD], OK, "the key is on a token"),
        ("pkcs11:object=www.example", [HELD], OK, "the key is on a token"),
        (URI, [], ERROR, "no token has the key"),
        (URI, [{**HELD, "uri": "nonsense"}], ERROR, "no token has the key"),
        ("pkcs11:token=t;id=%02", [HELD], ERROR, "no token has the key"),
        (URI, [HELD, HELD], ERROR, "2 keys fit"),
        (URI, [{**HELD, "usable": False, "trouble": "SCHEME_REFUSED"}], ERROR, "cannot be used: SCHEME_REFUSED"),
        ("http://x", [HELD], ERROR, "is no URI of a key"),
    ],
)
def test_keys(uri, held, level, text):
    found = only(credentials.keys([identity(uri=uri)], held))
    assert found.level == level
    assert text in found.text


def test_keys_are_not_judged_without_keyd():
    assert credentials.keys([identity()], None) == []


def test_keys_and_certificates_belong_together():
    leaf = certs.root().issue("www.example")
    ours = identity(chain=[leaf])
    assert credentials.matching([ours], {URI: {"spki": certs.spki(leaf.private).hex()}}) == []
    other = certs.spki(certs.key("p256", 77)).hex()
    assert "not the one" in only(credentials.matching([ours], {URI: {"spki": other}})).text
    assert credentials.matching([ours], {}) == []


# --- certificates -------------------------------------------------------------------------------------

ANCHORS = [certs.root().certificate]


def judged(*identities, now=NOW, anchors=ANCHORS):
    return credentials.certificates(identities, anchors, now)


def test_a_certificate_that_is_well():
    leaf = certs.root().issue("www.example", days=(-1, 200))
    assert only(judged(identity(chain=[leaf]))).level == OK
    wild = certs.root().issue("*.example", days=(-1, 200))
    assert only(judged(identity(chain=[wild]))).level == OK
    user = identity("jane@www.example", chain=[leaf])
    assert only(judged(user)).level == OK


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [
        ((-30, -1), ERROR, "expired on"),
        ((1, 30), ERROR, "is not valid before"),
        ((-60, 20), WARNING, "expires on"),
        ((-6, 1), WARNING, "expires on"),
        ((-1, 6), OK, "valid until"),  # one of a week has two thirds left
    ],
)
def test_dates(days, level, text):
    found = only(judged(identity(chain=[certs.root().issue("www.example", days=days)])))
    assert found.level == level
    assert text in found.text


def test_chains():
    middle = certs.intermediate()
    leaf = middle.issue("www.example")
    assert bad(judged(identity(chain=[leaf, middle]), now=NOW - DAY / 2)) == []
    incomplete = only(bad(judged(identity(chain=[leaf]), now=NOW - DAY / 2)))
    assert "ends at an issuer that this host does not trust" in incomplete.text
    wrong = only(bad(judged(identity(chain=[leaf, certs.root()]), now=NOW - DAY / 2)))
    assert "was not issued by number 2" in wrong.text
    alone = certs.make("www.example", number=5)
    assert "self-signed" in only(judged(identity(chain=[alone]), now=NOW - DAY / 2)).text


def test_names():
    found = only(bad(judged(identity("mail.example", chain=[certs.root().issue("www.example", days=(-1, 200))]))))
    assert "names www.example" in found.text


def test_records_that_cannot_be_read():
    assert only(judged({"id": "a", "records": [], "malformed": ["too short"]})).level == ERROR
    assert only(judged(identity(chain=[], malformed="no DER"))).text == "no DER"
    assert only(judged()).level == WARNING


def test_disclosures():
    selectors = [{"selector": "@.", "ids": ["www.example", "gone.example"], "malformed": []}]
    assert "gone.example, which has gone" in only(credentials.disclosures(selectors, [identity()])).text
    assert only(credentials.disclosures([], [])).level == NOTE
    fine = [{"selector": "@.", "ids": ["www.example"], "malformed": []}]
    assert only(credentials.disclosures(fine, [identity()])).level == OK


def anchor(one, *flags, valexp="1"):
    return {
        "key": "00ff",
        "records": [{"flags": ["x509", *flags], "valexp": valexp, "data": b64(one)}],
        "malformed": [],
    }


def test_trust():
    root = certs.root()
    assert only(credentials.trust([anchor(root, "client", "server")], NOW)).level == OK
    assert [one.level for one in credentials.trust([], NOW)] == [ERROR, NOTE]
    old = certs.make("Old root", ca=True, days=(-30, -1), number=9)
    found = credentials.trust([anchor(old, "client", "server")], NOW)
    assert "expired on" in found[0].text
    assert len(found) == 3
    assert credentials.trust([anchor(root, "client", "server", valexp="0")], NOW)[0].level == ERROR
    assert credentials.anchor_of({"flags": ["x509", "pinned"], "data": b64(root)}) is None
    assert credentials.anchor_of({"flags": ["x509"], "data": "!"}) is None
