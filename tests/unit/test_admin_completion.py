"""Completion in real shells: what may follow, at every place; and what only the pool knows."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlspool_admin import words
from tlspool_admin.__main__ import main, parser
from tlspool_admin.shells import SCRIPTS
from tlspool_admin.tree import tree

NODES = list(tree(parser()).all())
DYNAMIC = ["identities", "selectors", "anchors", "sessions", "generations", "settings"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The scripts, and a tlspool that answers as a pool would that has a few things."""
    made = tmp_path_factory.mktemp("completion")
    for shell, script in SCRIPTS.items():
        (made / f"script.{shell}").write_text(script(parser()))
    (made / "bin").mkdir()
    fake = made / "bin" / "tlspool"
    answers = {"identities": "www.example jane@www.example", "selectors": "@. .example", "sessions": "17 18"}
    cases = [f"{kind}) printf '%s\\n' {found} ;;" for kind, found in {**answers, "anchors": "00ff"}.items()]
    fake.write_text("\n".join(["#!/bin/sh", 'case "$4" in', *cases, '*) echo "got:$*:" ;;', "esac", ""]))
    fake.chmod(0o755)
    (made / "work").mkdir()
    (made / "work" / "afile.pem").touch()
    return made


def environment(home):
    return {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}


def bash(home, line):
    program = (
        f'source {home}/script.bash; COMP_LINE=$1 COMP_POINT=${{#1}}; _tlspool; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program, "bash", line],
        env=environment(home),
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def zsh(home, line):
    # compadd and _files belong to the line editor; what they are given is what would be offered.
    program = (
        f"compdef() {{ }}; compadd() {{ shift; print -l -- $@ }}; _files() {{ print -l -- * }}; "
        f"source {home}/script.zsh; words=(${{(s: :)1}}); [[ $1 == *' ' ]] && words+=(''); CURRENT=${{#words}}; "
        "_tlspool; true"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", program, "zsh", line],
        env=environment(home),
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    typed = "" if line.endswith(" ") else line.split()[-1]
    return {word for word in done.stdout.split() if word.startswith(typed)}


def fish(home, line):
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {home}/script.fish; complete -C $argv[1]", line],
        env=environment(home),
        cwd=home / "work",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    return {row.split("\t")[0] for row in done.stdout.splitlines()}


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.fixture(params=SHELLS)
def complete(request, home):
    assert shutil.which(request.param), f"{request.param} is missing; run scripts/need test"
    return lambda line: SHELLS[request.param](home, line)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tlspool loc", {"localid"}),
        ("tlspool --config x loc", {"localid"}),
        ("tlspool --json trust im", {"import"}),
        ("tlspool localid ", {"set", "get", "list", "del", "import"}),
        ("tlspool trust import --pass", {"--password-file"}),
        ("tlspool policy set host mod", {"modern"}),
        ("tlspool policy show ", {"intermediate", "modern", "pq-required", "fips-like"}),
        ("tlspool completion z", {"zsh"}),
        ("tlspool localid get www", {"www.example"}),
        ("tlspool sessions kill ", {"17", "18"}),
        ("tlspool check ", {"afile.pem"}),
        ("tlspool trust import x --password-file af", {"afile.pem"}),
        ("tlspool localid set x x509,client u af", {"afile.pem"}),
        ("tlspool trust get ", {"00ff", "afile.pem"}),
        ("tlspool nonsense ", set()),
    ],
)
def test_offered(complete, line, offered):
    assert complete(line) == offered


def test_everything_that_there_is_is_offered(home):
    """For bash; the others read the same data."""
    for node in NODES:
        line = " ".join(["tlspool", *node.words])
        if node.children:
            assert bash(home, f"{line} ") == {child.words[-1] for child in node.children}
        options = {name for option in node.options for name in option.names}
        assert bash(home, f"{line} -") == options


def test_bash_breaks_words_at_signs(home):
    assert bash(home, "tlspool localid get jane@w") == {"www.example"}  # behind the @, where bash puts it
    assert bash(home, "tlspool policy set serv") == {"service:"}


def test_in_an_interactive_bash(home):
    """Keys are typed, and the line is what the shell makes of it."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(home / "work")
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**environment(home), "PS1": "> "})
    try:
        os.write(fd, f"source {home}/script.bash; echo rea''dy\n".encode())
        await_output(fd, rb"ready\r?\n")
        os.write(fd, b"tlspool loc\tge\twww\t\n")
        assert await_output(fd, rb"got:.*?:\r?\n").strip() == b"got:localid get www.example:"
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


def await_output(fd, pattern):
    deadline, seen = time.monotonic() + 30, b""
    while not (found := re.search(pattern, seen)):
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 4096)
    return found.group(0)


def test_kinds_are_known():
    kinds = {option.kind for node in NODES for option in node.options}
    kinds |= {argument.kind for node in NODES for argument in node.arguments}
    assert {kind for kind in kinds if kind and not kind.startswith("=")} <= {"files", *DYNAMIC}


def test_words_are_asked_of_the_broker(monkeypatch, tmp_path, capsys):
    (tmp_path / "conf").write_text(f"run_dir {tmp_path}\n")
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(tmp_path / "conf"))
    answer = {"identities": [{"id": "a.example"}, {"id": "b c"}, {"id": "x\x1b"}, {"id": "a.example"}]}
    monkeypatch.setattr(words, "ask", lambda path, request, timeout_s: answer)
    assert main(["completion", "bash", "--words", "identities"]) == 0
    assert capsys.readouterr().out == "a.example\n"
    monkeypatch.undo()
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(tmp_path / "conf"))
    for kind in DYNAMIC[:-1]:
        assert main(["completion", "bash", "--words", kind]) == 0  # nobody answers: nothing is said
        assert capsys.readouterr() == ("\n", "")
    assert main(["completion", "bash", "--words", "settings"]) == 0
    assert "run_dir" in capsys.readouterr().out.split()


def test_the_command_prints_the_scripts(home):
    for shell in SCRIPTS:
        done = subprocess.run(
            [sys.executable, "-m", "tlspool_admin", "completion", shell], capture_output=True, text=True, check=True
        )
        assert done.stdout == (Path(home) / f"script.{shell}").read_text()
