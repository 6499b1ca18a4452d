"""Access rules as they are written: what is understood, and how each mistake is named."""

import os

import pytest

from tlspool_common.access import AccessRule
from tlspool_common.errors import Code
from tlspool_common.messages import Side
from tlspool_common.settings import SettingError, parse_untrusted


def rules(*lines):
    return parse_untrusted("".join(f"access {line}\n" for line in lines)).access


def test_no_rules():
    assert parse_untrusted("").access == ()


def test_a_rule_with_everything():
    [rule] = rules(
        "mail deny socket=/run/a.sock,/run/b.sock user=root,17 group=0 unit=postfix@.service,x.scope "
        "exe=/usr/bin/smtpd role=client,server localid=Mail.Example.COM,.example.org,@.,- service=smtp,submission"
    )
    assert rule == AccessRule(
        name="mail",
        allow=False,
        text="",
        sockets=frozenset({"/run/a.sock", "/run/b.sock"}),
        uids=frozenset({0, 17}),
        gids=frozenset({0}),
        units=frozenset({"postfix@.service", "x.scope"}),
        exes=frozenset({"/usr/bin/smtpd"}),
        sides=frozenset(Side),
        localids=frozenset({"mail.example.com", ".example.org", "@.", "-"}),
        services=frozenset({"smtp", "submission"}),
    )
    assert str(rule).startswith("deny socket=/run/a.sock,/run/b.sock user=root,17 ")


def test_rules_keep_their_order_and_may_have_no_criteria():
    first, second = rules("z allow role=client", "a   deny")
    assert [(rule.name, rule.allow, str(rule)) for rule in (first, second)] == [
        ("z", True, "allow role=client"),
        ("a", False, "deny"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must begin with a name"),
        ("a/b allow", "must begin with a name"),
        ("x" * 33 + " allow", "must begin with a name"),
        ("a", "allow or deny"),
        ("a permit", "allow or deny"),
        ("a allow root", "'root' is no criterion"),
        ("a allow colour=red", "'colour=red' is no criterion"),
        ("a allow user=", "has an empty value"),
        ("a allow user=root,,17", "has an empty value"),
        ("a allow user=root user=17", "user stands there twice"),
        ("a allow user=no-such-user-here", "names no user"),
        ("a allow user=-1", "names no user"),
        ("a allow group=no-such-group-here", "names no group"),
        ("a allow unit=postfix", "must be a systemd unit"),
        ("a allow unit=../x.service", "must be a systemd unit"),
        ("a allow exe=smtpd", "must be an absolute path"),
        ("a allow socket=tlspool.sock", "must be an absolute path"),
        ("a allow role=peer", "must be client or server"),
        ("a allow role=SERVER", "must be client or server"),
        ("a allow localid=a..b", "an empty label"),
        ("a allow service=0123456789abcdef", "longer than a service name"),
    ],
)
def test_mistakes_are_named(text, said):
    with pytest.raises(SettingError, match=said) as caught:
        rules(text)
    assert caught.value.code is Code.SETTING_INVALID
    assert [problem.keyword for problem in caught.value.problems] == ["access"]


def test_a_name_is_one_rules():
    with pytest.raises(SettingError, match="there is a rule a already"):
        rules("a allow", "a deny")


def test_names_of_users_and_groups_are_looked_up():
    [rule] = rules(f"me allow user={os.getuid()} group={os.getgid()}")
    assert (rule.uids, rule.gids) == (frozenset({os.getuid()}), frozenset({os.getgid()}))
