"""``tlspool sessions`` and ``kill`` without a broker: pages, and what is asked before anything ends."""

import json

import pytest

from tlspool_admin.__main__ import main
from tlspool_admin.commands import sessions as module
from tlspool_common.errors import Code, PoolError


@pytest.fixture
def broker(monkeypatch):
    """A broker that has seven sessions, and keeps what it was asked."""
    asked = []

    def ask(_args, command, **fields):
        asked.append((command, fields))
        if command == "sessions":
            rows = [{"session": number, "caller": "x[1]"} for number in range(1, 8) if number > fields.get("after", 0)]
            shown = rows[: fields["limit"]]
            more = len(rows) - len(shown)
            return {"ok": True, "sessions": shown, "more": more, **({"next": shown[-1]["session"]} if more else {})}
        if fields.get("session") == 99:
            raise PoolError(Code.SESSION_UNKNOWN, "99")
        return {"ok": True, "sessions": 7, "session": fields.get("session")}

    monkeypatch.setattr(module, "ask_broker", ask)
    monkeypatch.setattr(module, "_PAGE", 3)
    return asked


def listed(capsys, *words):
    assert main(["sessions", *words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    return [row["session"] for row in answer["sessions"]], answer["more"]


def test_pages_are_put_together(broker, capsys):
    assert listed(capsys) == ([1, 2, 3, 4, 5, 6, 7], 0)
    assert [fields["after"] for _, fields in broker] == [0, 3, 6]
    assert listed(capsys, "-n", "5") == ([1, 2, 3, 4, 5], 2)
    assert listed(capsys, "list", "-n", "3", "--after", "4", "--uid", "7") == ([5, 6, 7], 0)
    assert broker[-1][1]["uid"] == "7"
    assert main(["sessions", "-n", "2"]) == 0
    assert "5 more; go on with --after 2" in capsys.readouterr().out


def test_tags_are_a_column_where_there_are_any(monkeypatch, capsys):
    rows = [{"session": 1, "tags": []}, {"session": 2, "tags": []}]
    monkeypatch.setattr(module, "ask_broker", lambda _args, _command, **_fields: {"sessions": rows, "more": 0})
    assert main(["sessions"]) == 0
    assert "tags" not in capsys.readouterr().out
    rows[1]["tags"] = ["gold", "late"]
    assert main(["sessions"]) == 0
    assert "gold, late" in capsys.readouterr().out


def test_numbers_are_not_asked_about(broker, capsys):
    assert main(["kill", "5", "99", "6"]) == 1
    told = capsys.readouterr()
    assert told.out == "session 5: ended\nsession 6: ended\n"
    assert "session 99" in told.err
    assert [command for command, _ in broker] == ["kill"] * 3


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("yes", 0), ("", 1), ("n", 1), ("Y ", 0)])
def test_others_are(broker, monkeypatch, answer, code):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _prompt: answer)
    assert main(["kill", "--caller", "x"]) == code
    assert [command for command, _ in broker] == ["sessions", "kill"][: 2 - code]
    if not code:
        assert broker[-1][1] == {"caller": "x"}
        assert main(["kill", "--all", "--yes"]) == 0
        assert broker[-1][1] == {"all": True}
