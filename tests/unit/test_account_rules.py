"""Account rules as they are written: what is understood, and how each mistake is named."""

import pytest

from tlspool_common.account_rules import AccountRule
from tlspool_common.errors import Code
from tlspool_common.settings import Part, SettingError, parse_untrusted


def rules(*lines):
    return parse_untrusted("".join(f"account {line}\n" for line in lines)).accounts


def test_no_rules():
    assert parse_untrusted("").accounts == ()


def test_a_rule_with_everything():
    [rule] = rules(
        "print allow socket=/run/a.sock user=root,17 group=0 unit=cups.service exe=/usr/sbin/cupsd "
        "localid=Print.Example.COM,- service=ipp remoteid=@Example.COM,john@example.org,-"
    )
    assert rule == AccountRule(
        name="print",
        allow=True,
        text="",
        sockets=frozenset({"/run/a.sock"}),
        uids=frozenset({0, 17}),
        gids=frozenset({0}),
        units=frozenset({"cups.service"}),
        exes=frozenset({"/usr/sbin/cupsd"}),
        localids=frozenset({"print.example.com", "-"}),
        services=frozenset({"ipp"}),
        remoteids=frozenset({"@example.com", "john@example.org", "-"}),
    )
    assert str(rule).startswith("allow socket=/run/a.sock user=root,17 ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must begin with a name"),
        ("a", "allow or deny"),
        ("a allow role=client", "'role=client' is no criterion"),
        ("a allow remoteid=", "has an empty value"),
        ("a allow remoteid=@", "domain"),
        ("a allow remoteid=a remoteid=b", "stands there twice"),
        ("a allow user=nobody-of-that-name", "user"),
    ],
)
def test_mistakes(text, said):
    with pytest.raises(SettingError) as caught:
        rules(text)
    assert caught.value.code is Code.SETTING_INVALID
    assert "account" in str(caught.value)
    assert said in str(caught.value)


def test_rules_without_servers_are_told():
    assert parse_untrusted("account a allow\n").warnings == (
        "account: there are rules, and no server: name it in radius_authz",
    )
    config = "account a allow\nradius_acct 192.0.2.1\nradius_secret_file /etc/tlspool/radius.secrets\n"
    assert parse_untrusted(config).warnings == ()


def test_in_a_configuration():
    found = parse_untrusted("account a allow user=0\naccount b deny\n", Part.BROKER)
    rows = [row for row in found.rows() if row["name"] == "account"]
    assert [row["value"] for row in rows] == ["a allow user=0", "b deny"]
    again = parse_untrusted("".join(f"account {row['value']}\n" for row in rows), Part.BROKER)
    assert again.accounts == found.accounts
    assert found.changes(parse_untrusted("account a allow user=0\n", Part.BROKER)) == (["account"], [])
    assert not hasattr(parse_untrusted("account a allow\n", Part.KEYD), "accounts")
