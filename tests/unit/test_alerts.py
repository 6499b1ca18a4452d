"""Alerts by name: those that others know, and room for them in what applications read."""

import ssl

import pytest

from tlspool_broker.policy import told
from tlspool_common import alerts
from tlspool_common.errors import TABLE, Code, app_text

SPELT = {"user_cancelled": "user_canceled"}
"""Python's word: the standards'."""


def test_names_are_those_that_others_have():
    """Python's ssl has those of TLS 1.2 and its extensions; RFC 8446 section 6 adds the last."""
    theirs = {one.value: one.name.removeprefix("ALERT_DESCRIPTION_").lower() for one in ssl.AlertDescription}
    assert {number: alerts.NAMES[number] for number in theirs} == {
        number: SPELT.get(name, name) for number, name in theirs.items()
    }
    assert (alerts.NAMES[109], alerts.NAMES[116], alerts.NAMES[120]) == (
        "missing_extension",
        "certificate_required",
        "no_application_protocol",
    )


def test_one_that_nobody_knows():
    assert alerts.text(112) == "alert 112 unrecognized_name"
    assert alerts.text(200) == "alert 200"


@pytest.mark.parametrize("alert", alerts.NAMES)
def test_an_application_reads_the_alert_and_what_to_do(alert):
    """A text has 127 bytes; what to do is left out where it does not fit."""
    text = app_text(Code.REMOTE_ALERT, told(Code.REMOTE_ALERT, "detail", alert))
    assert f"alert {alert} {alerts.NAMES[alert]}; {TABLE[Code.REMOTE_ALERT].remedy}" in text


@pytest.mark.parametrize("alert", [40, 70, 71])
def test_nothing_shared(alert):
    """... with the alerts that say so."""
    text = app_text(Code.NOTHING_SHARED, told(Code.NOTHING_SHARED, "detail", alert))
    assert text.endswith(f"alert {alert} {alerts.NAMES[alert]}; {TABLE[Code.NOTHING_SHARED].remedy}")
