"""docs/protocol.md has the offsets by hand: they are those of the codec."""

import re
from pathlib import Path

import pytest

from tlspool_common import aaawire, appwire, servicewire
from tlspool_common.errors import Code

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text()
SERVICES = (DOCS / "services.md").read_text()
HEADER_B = 8
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8, "h": 2, "i": 4}


def fields_of(form):
    """Return (offset in the frame, size) of each field of a struct format."""
    found, at = [], HEADER_B
    for count, kind in re.findall(r"(\d*)([xsBHIQih])", form.format):
        size_b = int(count) if kind == "s" else SIZES.get(kind, 1)
        if kind != "x":
            found.append((at, size_b))
        at += size_b
    return found


@pytest.mark.parametrize(
    ("heading", "payload"),
    [
        ("## STARTTLS", appwire.Starttls),
        ("## PRNG", appwire.Prng),
        ("## INFO", appwire.Info),
        ("## CONTROL_DETACH, CONTROL_REATTACH", appwire.Control),
        ("### LOCAL_OPTIONS", appwire.Options),
        ("### LOCAL_DETAILS", appwire.Details),
        ("### LOCAL_TAGS", aaawire.Tags),
        ("### LOCAL_SUBJECT", aaawire.Subject),
        ("### LOCAL_AUTHENTICATE", aaawire.Authenticate),
        ("### LOCAL_AUTHORIZE", aaawire.Authorize),
        ("### A verdict", aaawire.Verdict),
        ("### LOCAL_ACCOUNT_UPDATE", aaawire.AccountCount),
    ],
)
def test_offsets(heading, payload):
    section = PAGE.partition(f"\n{heading}")[2].partition("\n##")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `", section, re.MULTILINE)
    assert [(int(offset), int(size_b)) for offset, size_b in rows] == fields_of(payload.FORM)


def test_offsets_of_a_start_and_of_its_reply():
    section = PAGE.partition("\n### LOCAL_ACCOUNT_START")[2].partition("\n##")[0]
    rows = [
        [(int(offset), int(size_b)) for offset, size_b in re.findall(r"^\| (\d+) \| (\d+) \| `", part, re.MULTILINE)]
        for part in section.split("The reply is the same command")
    ]
    assert rows == [fields_of(aaawire.AccountStart.FORM), fields_of(aaawire.AccountKept.FORM)]


@pytest.mark.parametrize(
    ("lead", "payload"),
    [
        ("PINENTRY `0x29`:", servicewire.Pinentry),
        ("LIDENTRY_REGISTER `0x200`, LIDENTRY_CALLBACK `0x201`:", servicewire.Lidentry),
        ("LOCAL_ASKER `0x80000010`", servicewire.Asker),
    ],
)
def test_offsets_of_services(lead, payload):
    table = SERVICES.partition(lead)[2].partition("\n\n    ")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `", table, re.MULTILINE)
    assert [(int(offset), int(size_b)) for offset, size_b in rows] == fields_of(payload.FORM)


def test_every_flag_of_choices_is_named():
    for flag in servicewire.ChoiceFlag.__members__.values():
        assert f"`{int(flag):#x}` {flag.name}" in SERVICES, flag


def test_every_command_and_flag_is_named():
    for cmd in appwire.Cmd:
        assert cmd.name in PAGE
        assert f"`{cmd:#x}`" in PAGE or f"`{cmd:#04x}`" in PAGE, cmd
    for flag in appwire.Flag:
        assert flag.name in PAGE
        assert f"`{flag:#x}`" in PAGE, flag


def test_codes_on_the_page_exist():
    for page in (PAGE, SERVICES, (DOCS / "broker.md").read_text()):
        assert {int(code) for code in re.findall(r"\[(\d{3})\]", page)} <= set(Code)
