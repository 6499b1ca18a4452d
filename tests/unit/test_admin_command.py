"""The command line: what is in it, what is loaded for it, and that nothing ends in a traceback."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlspool_admin import catalog
from tlspool_admin.__main__ import main, parser
from tlspool_admin.tree import tree

SLOW = ("cryptography", "OpenSSL", "asyncio", "libstub", "tlspool_common.messages", "tlspool_common.settings")


def commands(made):
    (action,) = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    return [(choice.dest, choice.help) for choice in action._choices_actions]


def test_all_parsers_and_none_have_the_same_commands_and_help():
    expected = [(entry.name, entry.help) for entry in catalog.CATALOG]
    assert sorted(commands(parser())) == sorted(expected)
    assert commands(parser(())) == expected


def test_every_module_is_in_the_catalog():
    import tlspool_admin.commands as package

    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == {entry.module for entry in catalog.CATALOG}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["status"],
        ["localid", "list"],
        ["history"],
        ["completion", "--help"],
        ["dev", "env", "--dir", "/nonexistent"],
    ],
)
def test_nothing_slow_is_loaded_for_what_is_quick(words, tmp_path):
    program = (
        "import sys\nfrom tlspool_admin.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)"
    )
    config = tmp_path / "conf"
    config.write_text(f"run_dir {tmp_path}\n")
    environment = {**os.environ, "TLSPOOL_CONFIG_FILE": str(config)}
    if words == ["localid", "list"] or words == ["history"]:
        environment["TLSPOOL_CONFIG_FILE"] = str(tmp_path / "absent")  # else the files would be opened
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["localid"],
        ["localid", "set"],
        ["localid", "set", "a.example", "x509", "pkcs11:object=a"],
        ["trust", "pin"],
        ["trust", "pin", "a.example", "00", "--days", "-1"],
        ["policy", "set", "host", "nonsense"],
        ["history", "-n", "x"],
        ["rollback", "-1"],
        ["sessions", "kill", "x"],
        ["explain", "x"],
        ["explain", "last", "--certificate", "x"],
        ["explain", "--service", "smtp"],
        ["completion", "csh"],
        ["doctor", "now"],
        ["--if-generation"],
        ["trust", "set", "--", "x509", "--", "--", "x"],
    ],
)
def test_bad_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: tlspool" in capsys.readouterr().err


def test_the_page_has_every_command_and_action():
    page = (Path(__file__).parents[2] / "docs" / "command.md").read_text().replace("\\|", "|")
    table = page.partition("## What all")[0]
    for node in tree(parser()).children:
        (row,) = [line for line in table.splitlines() if re.search(rf"[|,] `{node.words[0]}\b", line)]
        for child in node.children:
            if node.words[0] not in ("tunnel", "run"):
                assert re.search(rf"[ |\[]{child.words[-1]}\b", row), child.words
    for name in legacy_tools():
        assert f"`{name} " in page


def legacy_tools():
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    return re.findall(r"(tlspool-[a-z-]+) = tlspool_admin.legacy", text)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A configuration of a pool that does not run."""
    path = tmp_path / "conf"
    path.write_text(f"run_dir {tmp_path}\ndbenv_dir {tmp_path}/db\n")
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(path))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["sessions"],
        ["sessions", "show", "1"],
        ["sessions", "kill", "1"],
        ["kill", "--all", "--yes"],
        ["kill", "1"],
        ["callers"],
        ["loads"],
        ["workers"],
        ["keys"],
        ["keys", "lock"],
        ["drain"],
        ["explain"],
    ],
)
def test_no_daemon_is_1_and_one_line(nowhere, words, capsys):
    assert main(words) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "does the daemon run?" in told.err
    assert told.out == ""
    assert main(["--json", *words]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "does the daemon run?" in answer["error"]


def test_a_pool_that_is_down_is_2(nowhere, capsys):
    assert main(["status"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("down\nbroker: no answer at ")
    assert main(["status", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], len(answer["reasons"]), answer["broker"]["ok"]) == ("down", 3, False)
    assert main(["top", "--once"]) == 2
    assert capsys.readouterr().out.startswith("down\nbroker: no answer at ")


@pytest.mark.parametrize("words", [["kill"], ["kill", "1", "--all"], ["kill", "--all", "--caller", "x"]])
def test_nobody_in_particular_is_not_everybody(nowhere, words, capsys):
    assert main(words) == 1
    assert "[101]" in capsys.readouterr().err


def test_a_refusal_has_its_code(tmp_path, capsys, monkeypatch):
    path = tmp_path / "conf"
    path.write_text("run_dir x\n")
    assert main(["status", "--json", "--config", str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == 701


def test_there_is_no_configuration(tmp_path, capsys):
    assert main(["status", "--config", str(tmp_path / "absent")]) == 1
    assert "--config" in capsys.readouterr().err


LEAVES = [node for node in tree(parser()).all() if not node.children]
SAFE = [node for node in LEAVES if node.words[0] not in ("dev", "run", "tunnel", "pin", "choose", "doctor")]
WORDS = st.sampled_from(["-", "--", "", "a.example", "x509,client", "1", "/dev/null", "/nonexistent", "@.", "pkcs11:"])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_words_end_in_a_traceback(data):
    node = data.draw(st.sampled_from(SAFE))
    options = [option.names[-1] for option in node.options if option.names[-1] not in ("--help", "--config")]
    text = st.text(st.characters(exclude_characters="\0"), max_size=20)
    given_words = data.draw(st.lists(WORDS | st.sampled_from([*options, "-x"]) | text, max_size=6))
    words = [*node.words, *given_words]
    if "-" in given_words or node.words[0] == "completion" or any(word.startswith("--c") for word in given_words):
        return  # these read standard input, or name another configuration
    words = ["--config", "/nonexistent/tlspool.conf", *words]
    try:
        assert main(words) in (0, 1, 2, 3)
    except SystemExit as error:
        assert error.code in (0, 2)


def test_a_locale_that_lacks_letters(tmp_path):
    path = tmp_path / "žluťoučký.conf"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "tlspool_admin", "check", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No such file" in done.stdout


def test_a_reader_that_has_seen_enough():
    done = subprocess.run(
        f"{sys.executable} -m tlspool_admin completion bash | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
