"""OpenMetrics text, by an independent parser; and reading that of another daemon.

Invariant: of any text ``read_untrusted`` makes samples of names in the table, or raises BadText.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tlspool_common import openmetrics
from tlspool_common.metric_table import DAEMONS, TABLE
from tlspool_common.metrics import Metrics
from tlspool_common.openmetrics import BadText, Sample

SESSION = {"side": "client", "version": "TLSv1.2", "group": "secp256r1", "ms": 3.25}


def text_of(letter):
    metrics = Metrics(letter)
    metrics.read("session.start", SESSION)
    metrics.read("sign.done", {"scheme": "ed25519", "token": 'pkcs11:token="a\\b\n', "queue_ms": 0.5, "token_ms": 1.5})
    return metrics.text()


@pytest.mark.parametrize("letter", DAEMONS)
def test_another_parser_reads_it(letter):
    families = list(text_string_to_metric_families(text_of(letter)))
    assert [family.name for family in families] == [one.name for one in TABLE if letter in one.daemons]
    types = {one.name: one.kind.value for one in TABLE}
    assert all(family.type == types[family.name] for family in families)


def test_another_parser_reads_the_same_values():
    for letter in DAEMONS:
        text = text_of(letter)
        theirs = [
            (sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        ours = [
            (sample.name, dict(sample.labels), sample.value)
            for samples in openmetrics.read_untrusted(text).values()
            for sample in samples
        ]
        assert theirs == ours


def test_several_daemons_make_one_text():
    parts = [openmetrics.read_untrusted(text_of(letter)) for letter in DAEMONS]
    merged = openmetrics.write(openmetrics.merge(parts))
    families = list(text_string_to_metric_families(merged))
    assert [family.name for family in families] == [one.name for one in TABLE]
    assert {sample.labels["daemon"] for sample in families[0].samples} == set(DAEMONS.values())


def test_of_two_that_say_the_same_the_first_counts():
    up = [Sample("tlspool_up", {"daemon": "broker"}, 1)]
    other = [Sample("tlspool_up", {"daemon": "broker"}, 0), Sample("tlspool_up", {"daemon": "keyd"}, 0)]
    merged = openmetrics.merge([{"tlspool_up": up}, {"tlspool_up": other}])
    assert merged == {"tlspool_up": [*up, other[1]]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# EOF",
        "tlspool_up 1\n# EOF\n",
        "# TYPE tlspool_up gauge\ntlspool_up 1\n",
        "# TYPE unknown gauge\nunknown 1\n# EOF\n",
        "# TYPE tlspool_up gauge\n# TYPE tlspool_up gauge\n# EOF\n",
        "# TYPE tlspool_up gauge\ntlspool_sessions 1\n# EOF\n",
        "# TYPE tlspool_up gauge\ntlspool_up one\n# EOF\n",
        "# TYPE tlspool_up gauge\ntlspool_up{daemon=keyd} 1\n# EOF\n",
        '# TYPE tlspool_up gauge\ntlspool_up{daemon="a\nb"} 1\n# EOF\n',
        "# TYPE tlspool_up gauge\ntlspool_up 1 2 3\n# EOF\n",
        "# TYPE tlspool_up gauge\ntlspool_up --\n# EOF\n",
        "# TYPE tlspool_up gauge\n\n# EOF\n",
        "# TYPE tlspool_up\n# EOF\n",
        "x" * (openmetrics.TEXT_B + 1),
    ],
)
def test_what_is_no_text_of_ours(text):
    with pytest.raises(BadText):
        openmetrics.read_untrusted(text)


WORDS = [
    "# TYPE tlspool_up gauge\n",
    'tlspool_up{daemon="keyd"} 1\n',
    "# EOF\n",
    "# HELP x y\n",
    "tlspool_up",
    "{",
    '"',
    "\\",
    "1 ",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=9), max_size=12).map("".join))
def test_any_text_is_read_or_refused(text):
    try:
        found = openmetrics.read_untrusted(text + "# EOF\n")
    except BadText:
        return
    again = openmetrics.write(found)
    assert openmetrics.read_untrusted(again).keys() == found.keys()


@given(st.integers(0, 3000), st.characters())
def test_a_text_with_one_letter_changed(place, letter):
    text = text_of("K")
    place %= len(text)
    try:
        openmetrics.read_untrusted(text[:place] + letter + text[place + 1 :])
    except BadText as error:
        assert str(error)
