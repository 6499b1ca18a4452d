"""What the pages show is what the tests run: each piece of Python stands in a program of examples/, as it is."""

import re
import textwrap

import pytest

from tests.fixtures.native import ROOT

EXAMPLES = [path.read_text() for path in (ROOT / "examples").glob("*.py")]


def pieces(page, section=""):
    text = (ROOT / page).read_text()
    if section:
        text = text.partition(section)[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def stands(piece):
    """Whether an example has these lines one after the other, however far they are indented."""
    return any(textwrap.indent(piece, " " * depth) in text for text in EXAMPLES for depth in (0, 4, 8))


@pytest.mark.parametrize(
    ("page", "section", "least"), [("docs/applications.md", "", 15), ("README.md", "## Three lines", 5)]
)
def test_each_piece_is_from_an_example(page, section, least):
    found = pieces(page, section)
    assert len(found) >= least
    assert [piece for piece in found if not stands(piece)] == []


def test_pieces_that_are_nowhere_are_found():
    assert not stands("import libstub\nlibstub.no_such_thing()\n")
    assert not stands("sock = socket.create_connection((host, port))\nwith something_else:\n")
