"""Lines of words are read as they were written; anything else is refused by one exception type."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tlspool_common.log import line
from tlspool_common.logwords import words_untrusted

PRINTABLE = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=60).filter(str.isprintable)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True).filter(lambda name: not name.endswith("_secret"))


@given(st.dictionaries(NAMES, PRINTABLE, max_size=8))
@example({"a": '"\\= '})
@example({"a": "", "b": "\\\\", "c": "-"})
def test_what_log_has_written(fields):
    fields.pop("event", None)
    read = words_untrusted(line("x.y", fields))
    assert read.pop("event") == "x.y"
    assert read == fields


@pytest.mark.parametrize("text", ["x", "=1", 'a="b', "a=1 a=2", 'a="b"c', "A=1", "a=1 b", 'a=b"c"', " a=1"])
def test_what_is_no_line(text):
    with pytest.raises(ValueError, match="no name=value at character"):
        words_untrusted(text)


@pytest.mark.parametrize("text", ["a=\x1b[0m", "a=1\n", "a=1\tb=2", 'a="\u2028"'])
def test_what_cannot_be_printed(text):
    with pytest.raises(ValueError, match="what cannot be printed"):
        words_untrusted(text)


def test_numbers_are_text():
    assert words_untrusted("a=1 b=- c=1.5") == {"a": "1", "b": "", "c": "1.5"}
