"""docs/radius.md says nothing that is not so: rules, attributes, settings, causes, codes, states and commands."""

import re
from pathlib import Path

import pytest

from tlspool_admin.__main__ import parser
from tlspool_admin.tree import tree
from tlspool_broker import meter
from tlspool_common.error_table import TABLE as ERRORS
from tlspool_common.errors import Code
from tlspool_common.radius_rules import parse_radius
from tlspool_common.radius_table import BY_NAME, Use
from tlspool_common.setting_table import BY_NAME as SETTINGS
from tlspool_radius import bounds, dynamic
from tlspool_radius.servers import Purpose, Server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "radius.md").read_text()
RULES = re.findall(r"^    radius (\w+ .*)$", PAGE, re.M)


@pytest.mark.parametrize("text", [rule for rule in RULES if "[" not in rule])
def test_rules(text):
    parse_radius(text, lambda _name: 33, lambda _name: 33)


def test_there_are_rules():
    assert len(RULES) > 5


def test_settings():
    named = set(re.findall(r"\bradius_[a-z_]+[a-z]\b", PAGE))
    assert len(named) > 10
    assert named - {"radius_policy"} <= set(SETTINGS)


def test_attributes():
    """What the table of answers has is read of answers; and every attribute that is mentioned is one."""
    answers = PAGE.partition("## What an answer does")[2].partition("\n## ")[0]
    rows = [name.strip() for row in re.findall(r"^\| ([A-Z][^|]+) \|", answers, re.M) for name in row.split(",")]
    names = [row.partition(" = ")[0] for row in rows]
    assert len(names) >= 9
    assert all(BY_NAME[name].use & Use.REPLY for name in names)
    read = {one.name for one in BY_NAME.values() if one.use & Use.REPLY}
    unnamed = read - set(names) - {"Message-Authenticator", "Chargeable-User-Identity"}
    assert not unnamed, "what is read of an answer is in the table"
    mentioned = re.findall(
        r"\b((?:TLSPool|Acct|NAS|Called|Calling|Filter|User|Service|Event)-[A-Z][A-Za-z-]+[a-z])\b", PAGE
    )
    others = {"Acct-Input", "Acct-Output"} | {name for name, _ in BY_NAME["Acct-Terminate-Cause"].values}
    assert set(mentioned) - others <= set(BY_NAME)


def test_causes():
    rows = PAGE.partition("| Acct-Terminate-Cause | when |")[2].partition("\n\n")[0]
    told = {name.strip() for row in re.findall(r"^\| ([A-Z][^|]+) \|", rows, re.M) for name in row.split(",")}
    used = {*meter._BY_REASON.values(), *meter._BY_ENDER.values(), *meter._BY_CODE.values(), "NAS-Reboot"}
    assert told == used <= {name for name, _ in BY_NAME["Acct-Terminate-Cause"].values}


def test_codes():
    named = {int(code) for code in re.findall(r"\((\d{3})\)", PAGE)} | {
        int(code) for code in re.findall(r"\b8\d\d\b", PAGE)
    }
    codes = {code for code in named if code // 100 == 8}
    assert codes >= {801, 802, 803, 804, 806, 810}
    assert all(Code(code) in ERRORS for code in codes)


def test_error_causes():
    causes = {
        dynamic.UNSUPPORTED_ATTRIBUTE,
        dynamic.MISSING_ATTRIBUTE,
        dynamic.UNSUPPORTED_SERVICE,
        dynamic.INVALID_VALUE,
        dynamic.SESSION_UNKNOWN,
    }
    told = re.findall(r"^\| NAK, Error-Cause ([\d, ]+) \|", PAGE, re.MULTILINE)
    assert {int(number) for numbers in told for number in numbers.split(",")} == causes
    helper = (ROOT / "docs" / "radius-helper.md").read_text().partition("| Error-Cause | |")[2].partition("\n\n")[0]
    assert {int(number) for number in re.findall(r"^\| (\d{3}) ", helper, re.MULTILINE)} == causes


def test_what_status_says():
    line = Server(1, Purpose.AUTHORIZE, "192.0.2.1", 1812, b"s").line(0.0)
    known = set(re.findall(r"(\w+)=", line))
    table = PAGE.partition("| | in `status` | what happens |")[2].partition("\n\n")[0]
    columns = {word for row in re.findall(r"^\|[^|]*\| ([^|]*)\|", table, re.M) for word in re.findall(r"`(\w+)`", row)}
    assert columns - known <= {"dead", "up"}
    assert columns >= {"timeouts", "refused", "authenticator", "unsigned", "late", "malformed"}


def test_numbers():
    assert f"{bounds.PORTS * 256} questions at a time for each server ({bounds.PORTS} ports" in PAGE
    assert f"{bounds.FLYING} accounting records" in PAGE
    assert SETTINGS["radius_interim_s"].default == 600.0


def test_commands():
    known = {" ".join(node.words) for node in walk(tree(parser()))}
    found = {command.strip() for command in re.findall(r"tlspool (radius \w+|check|explain|kill|sessions)", PAGE)}
    assert found and all(f"tlspool {command}" in known or command in known for command in found), (found, known)


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


def test_links():
    for target in re.findall(r"\]\(([a-z-]+\.md)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for target in re.findall(r"`(examples/[\w./-]+)`", PAGE):
        assert (ROOT / target).exists(), target
