from __future__ import annotations

import re

import pytest

from tlspool_broker.validation import usages
from tlspool_broker.validation.usages import CLIENT_AUTH, SERVER_AUTH, SIP_DOMAIN, has, named, required
from tlspool_common.messages import Side


@pytest.mark.parametrize(
    ("service", "of_servers", "of_clients"),
    [
        ("", SERVER_AUTH, CLIENT_AUTH),
        ("smtp", SERVER_AUTH, CLIENT_AUTH),
        ("SMTPS", SERVER_AUTH, CLIENT_AUTH),
        ("xmpp-server", SERVER_AUTH, CLIENT_AUTH),
        ("sip", SIP_DOMAIN, SIP_DOMAIN),
        ("sips", SIP_DOMAIN, SIP_DOMAIN),
        ("capwap-control", usages.CAPWAP_AC, usages.CAPWAP_WTP),
        ("something of ours", SERVER_AUTH, CLIENT_AUTH),
    ],
)
def test_what_a_service_needs(service: str, of_servers: str, of_clients: str) -> None:
    assert required(service, Side.CLIENT) == of_servers
    assert required(service, Side.SERVER) == of_clients


def test_a_usage_is_there_or_critical() -> None:
    assert has((SERVER_AUTH,), SERVER_AUTH) == (True, False)
    assert has((f"{SERVER_AUTH}!",), SERVER_AUTH) == (True, True)
    assert has((CLIENT_AUTH,), SERVER_AUTH) == (False, False)
    assert has((), SERVER_AUTH) == (False, False)
    # a usage for everything does not name this one
    assert has(("2.5.29.37.0!",), SERVER_AUTH) == (False, False)


def test_the_table_is_in_order() -> None:
    for service, usage in usages.TABLE.items():
        assert len(service) <= 16, "the field of STARTTLS"
        assert service == service.lower()
        assert usage.source
        for oid in (usage.server, usage.client):
            assert re.fullmatch(r"\d+(\.\d+)+", oid)
            assert named(oid) != oid
    assert set(usages._ALIASES.values()) <= set(usages.TABLE)
    assert not set(usages._ALIASES) & set(usages.TABLE)
    assert named("1.2.3") == "1.2.3"
