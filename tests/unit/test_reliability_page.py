"""docs/reliability.md has the limits by hand: they are those of the settings, with the codes that refuse."""

import re
from pathlib import Path

from tlspool_broker import room
from tlspool_common.errors import Code
from tlspool_common.setting_table import BY_NAME

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (\d+) \| \d+ \|", PAGE, re.MULTILINE))
CODES = dict(re.findall(r"^\| `(\w+)` \| \d+ \| (\d+) \|", PAGE, re.MULTILINE))


def test_all_limits_are_there_with_their_defaults():
    limits = {name for name in BY_NAME if name.startswith("max_") or name.endswith("_per_caller")}
    assert set(ROWS) == limits
    assert {name: BY_NAME[name].default for name in limits} == {name: int(value) for name, value in ROWS.items()}


def test_codes():
    assert {Code(int(code)).name for code in CODES.values()} == {
        "TOO_MANY_SESSIONS", "TOO_MANY_HANDSHAKES", "TOO_FAST", "TOO_MANY_REQUESTS", "TOO_MANY_CONNECTIONS",
    }  # fmt: skip


def test_times():
    assert (room.SILENT_MS, room.STALLED_MS) == (3_000, 10_000)
    assert "for three seconds" in PAGE
    assert "for ten seconds" in PAGE
