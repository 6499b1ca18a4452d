"""What only services say: the golden frames 19 to 25, LOCAL_ASKER, and the flags of choices."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.appwire import PAYLOAD_B, BadPayload, Cmd, Frame, frame_untrusted
from tlspool_common.servicewire import CHOICE_REGISTRATION, Asker, ChoiceFlag, Lidentry, Pinentry, fitting

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "v2"
GOLDEN = [one for one in json.loads((VECTORS / "vectors.json").read_text())["vectors"] if one["name"] >= "19"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda one: one["name"])
def test_golden_frames_both_ways(golden):
    data = (VECTORS / golden["file"]).read_bytes()
    frame = frame_untrusted(data)
    assert (frame.reqid, frame.cbid, frame.cmd) == (golden["reqid"], golden["cbid"], golden["cmd"])
    fields = dict(golden["fields"])
    if frame.cmd == Cmd.PINENTRY:
        fields["pin_secret"] = fields.pop("pin")
        made = Pinentry(**fields)
        assert Pinentry.from_payload_untrusted(frame.payload) == made
    else:
        fields["timeout_s"] = fields.pop("timeout")
        made = Lidentry(**fields)
        assert Lidentry.from_payload_untrusted(frame.payload) == made
    assert Frame(frame.reqid, frame.cbid, frame.cmd, made.to_payload()).to_bytes() == data


def test_there_are_seven_golden_frames():
    assert [one["name"][:2] for one in GOLDEN] == ["19", "20", "21", "22", "23", "24", "25"]


def test_asker_both_ways():
    asker = Asker(1000, 4711, "postfix.service[4711]", "smtp")
    assert Asker.from_payload_untrusted(asker.to_payload().ljust(PAYLOAD_B, b"\0")) == asker


@given(st.text())
def test_any_label_fits(text):
    payload = Asker(0, 0, text, "").to_payload()
    assert len(payload) <= PAYLOAD_B
    assert Asker.from_payload_untrusted(payload.ljust(PAYLOAD_B, b"\0")).label == fitting(text, 256)


@given(st.binary(min_size=PAYLOAD_B, max_size=PAYLOAD_B))
def test_any_payload_is_an_asker_or_refused(data):
    try:
        Asker.from_payload_untrusted(data)
    except BadPayload:
        return


@pytest.mark.parametrize(
    ("text", "size_b", "fits"),
    [("abc", 4, "abc"), ("abcd", 4, "abc"), ("äää", 4, "ä"), ("a\x1b[m", 9, "a?[m"), ("", 4, "")],
)
def test_fitting(text, size_b, fits):
    assert fitting(text, size_b) == fits


def test_every_skip_flag_contains_the_first():
    for flag in (
        ChoiceFlag.SKIP_USER,
        ChoiceFlag.SKIP_DOMAIN_SAME,
        ChoiceFlag.SKIP_DOMAIN_ONEUP,
        ChoiceFlag.SKIP_NOTROOT,
    ):
        assert flag & ChoiceFlag.SKIP_DBENTRY
        assert flag & CHOICE_REGISTRATION == flag
    assert not ChoiceFlag.DBENTRY & CHOICE_REGISTRATION
