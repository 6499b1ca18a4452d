"""docs/protocol.md has the offsets by hand: they are those of the codec."""

import re
from pathlib import Path

import pytest

from tlspool_common import appwire
from tlspool_common.errors import Code

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
HEADER_B = 8
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8, "i": 4}


def fields_of(form):
    """Return (offset in the frame, size) of each field of a struct format."""
    found, at = [], HEADER_B
    for count, kind in re.findall(r"(\d*)([xsBHIQi])", form.format):
        size_b = int(count) if kind == "s" else SIZES.get(kind, 1)
        if kind != "x":
            found.append((at, size_b))
        at += size_b
    return found


@pytest.mark.parametrize(
    ("heading", "payload"),
    [
        ("## STARTTLS", appwire.Starttls),
        ("### LOCAL_OPTIONS", appwire.Options),
        ("### LOCAL_DETAILS", appwire.Details),
    ],
)
def test_offsets(heading, payload):
    section = PAGE.partition(f"\n{heading}")[2].partition("\n##")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `", section, re.MULTILINE)
    assert [(int(offset), int(size_b)) for offset, size_b in rows] == fields_of(payload.FORM)


def test_every_command_and_flag_is_named():
    for cmd in appwire.Cmd:
        assert cmd.name in PAGE
        assert f"`{cmd:#x}`" in PAGE or f"`{cmd:#04x}`" in PAGE, cmd
    for flag in appwire.Flag:
        assert flag.name in PAGE
        assert f"`{flag:#x}`" in PAGE, flag


def test_codes_on_the_page_exist():
    for page in (PAGE, (Path(__file__).parents[2] / "docs" / "broker.md").read_text()):
        assert {int(code) for code in re.findall(r"\[(\d{3})\]", page)} <= set(Code)
