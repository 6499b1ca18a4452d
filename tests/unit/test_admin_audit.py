"""``tlspool audit`` on files: which they are, where they break, what is in them; no daemon runs."""

import json

import pytest

from tlspool_admin import trails
from tlspool_admin.__main__ import main
from tlspool_common.audit import Head
from tlspool_common.errors import PoolError
from tlspool_common.trail import Trail

DAY_S = 86400.0


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Two trails over three days; the configuration names them."""
    place = tmp_path / "audit"
    now_s = [1_772_442_751.0]
    broker = Trail(place, "broker", lambda: now_s[0])
    keyd = Trail(place, "keyd", lambda: now_s[0])
    for number in range(1, 7):
        keyd.append("sign.done", {"session": number, "key": "pkcs11:object=web"})
        now_s[0] += 0.5
        broker.append("session.start", {"session": number, "remoteid": "\x1b[31mred"})
        now_s[0] += DAY_S / 2
    broker.close()
    keyd.close()
    config = tmp_path / "tlspool.conf"
    config.write_text(f"run_dir {tmp_path}\naudit_dir {place}\nnonsense there is\n")
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(config))
    return place


def run(capsys, *words):
    code = main(["audit", *words])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_whole_trails(directory, capsys):
    code, out, err = run(capsys, "verify")
    assert (code, err) == (0, "")
    assert "broker: whole: 8 records in 3 files, 2026-03-02T09:12:31.500Z to 2026-03-04T21:12:3" in out
    assert "keyd: whole: 8 records in 3 files" in out


def test_the_first_bad_line_of_each(directory, capsys):
    path = directory / "broker-000002.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[1])
    code, out, _ = run(capsys, "verify", str(directory))
    assert code == 1
    assert f"broker: BROKEN: {path} line 2: record 5 where 4 is due" in out
    assert "3 records before it are whole" in out
    assert "keyd: whole" in out
    code, out, _ = run(capsys, "verify", str(directory), "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["code"]) == (1, False, 611)
    assert [(row["daemon"], row["whole"], row["bad_line"]) for row in answer["trails"]] == [
        ("broker", False, 2),
        ("keyd", True, None),
    ]


def test_old_files_that_were_taken_away(directory, capsys):
    (directory / "broker-000001.jsonl").unlink()
    code, out, _ = run(capsys, "verify")
    assert (code, "record 3 where 1 is due" in out) == (1, True)
    assert run(capsys, "verify", "--partial")[0] == 0
    (directory / "broker-000002.jsonl").unlink()
    assert run(capsys, "verify", "--partial")[0] == 0


def test_files_in_any_order_and_of_one_daemon(directory, capsys):
    paths = sorted(map(str, directory.glob("keyd-*")), reverse=True)
    code, out, _ = run(capsys, "verify", *paths)
    assert (code, out.count("whole")) == (0, 1)


def test_heads(directory, capsys, tmp_path):
    found = trails.find([directory])
    head = trails.verify("broker", found["broker"]).last.head
    assert run(capsys, "verify", "--head", f"broker:{head}")[0] == 0
    for wrong in (f"broker:{Head(head.seq, 'ab' * 32)}", f"broker:{Head(head.seq + 1, head.hash)}", f"other:{head}"):
        code, out, _ = run(capsys, "verify", "--head", wrong)
        assert (code, "BROKEN" in out) == (1, True)
    log = tmp_path / "log"
    log.write_text(f"Mar 02 host tlspool-broker: event=audit.head head=broker:{head} file=x\n<6>event=x head=y\n")
    assert run(capsys, "verify", "--heads", str(log))[0] == 0
    (directory / "broker-000003.jsonl").unlink()
    code, out, _ = run(capsys, "verify", "--heads", str(log))
    assert (code, f"the end is missing: there was a record {head.seq}" in out) == (1, True)
    code, _, err = run(capsys, "verify", "--head", "broker:x")
    assert (code, "DAEMON:NUMBER:HASH" in err) == (1, True)


def test_after_a_crash(directory, capsys):
    path = directory / "keyd-000003.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":9,')
    code, out, _ = run(capsys, "verify")
    assert (code, "accounts for it at its next start" in out) == (1, True)
    Trail(directory, "keyd", lambda: 1_772_442_751.0 + 2.5 * DAY_S).close()
    code, out, err = run(capsys, "verify")
    assert code == 0
    assert "9 bytes lost, 0 records missed; the daemon was killed while it wrote" in err


def test_show(directory, capsys):
    code, out, _ = run(capsys, "show")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 16)
    assert lines == sorted(lines, key=lambda line: line[:24])
    assert lines[0].split()[:4] == ["2026-03-02T09:12:31.000Z", "keyd", "1", "sign.done"]
    assert 'remoteid="\\\\x1b[31mred"' in lines[1] or "\\x1b[31mred" in lines[1]
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--session", "3"], 2),
        (["--event", "sign.*"], 6),
        (["--event", "session.start", "--session", "9"], 0),
        (["--since", "2026-03-04"], 6),
        (["--since", "2026-03-04T12:00Z"], 2),
        (["--since", "2h"], 0),
        (["-n", "3"], 3),
    ],
)
def test_show_what_is_wanted(directory, capsys, words, count):
    _, out, _ = run(capsys, "show", *words)
    assert len(out.splitlines()) == count
    _, out, _ = run(capsys, "show", "--json", *words)
    assert all(
        {"seq", "time", "daemon", "event", "fields", "hash"} == set(json.loads(line)) for line in out.splitlines()
    )
    assert len(out.splitlines()) == count


@pytest.mark.parametrize("words", [["show", "--since", "yesterday"], ["show", "--session", "x"], []])
def test_bad_usage(directory, capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(["audit", *words])
    assert caught.value.code == 2


def test_no_trail(tmp_path, capsys, monkeypatch):
    config = tmp_path / "tlspool.conf"
    config.write_text("run_dir /nonexistent\n")
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(config))
    code, _, err = run(capsys, "verify")
    assert (code, "has no audit_dir" in err) == (1, True)
    assert run(capsys, "show", str(tmp_path))[0] == 1
    with pytest.raises(PoolError):
        trails.find([config])
    with pytest.raises(FileNotFoundError):
        trails.find([tmp_path / "none"])
    assert run(capsys, "verify", str(tmp_path / "broker-000001.jsonl"))[0] == 1
