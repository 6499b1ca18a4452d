"""Which rule applies, what its templates come to, and what is left out."""

import itertools

import pytest

from tlspool_broker.admitting import merged, printable
from tlspool_broker.parties import Caller
from tlspool_broker.radius_grant import Admission
from tlspool_broker.radius_policy import ATTRIBUTES_B, BY_DEFAULT, RadiusPolicy, attributes_of, question
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted as identity
from tlspool_common.messages import Access, AccessTold, Purpose, Side
from tlspool_common.radius_rules import ATTRIBUTES, WORDS, parse_radius
from tlspool_common.radius_table import TABLE, Use
from tlspool_common.settings import parse_untrusted

CALLER = Caller(1000, 100, 815, "postfix.service", "smtpd", True, "/usr/sbin/smtpd", (7,), "/run/tlspool/tlspool.sock")
UNCERTAIN = Caller(1000, 100, 815, "postfix.service", "smtpd", False, "/usr/sbin/smtpd", (7,))
FILLED = dict.fromkeys(WORDS, "x") | {"remoteid": "john@example.com"}


class Servers:
    """In the place of Radius: every purpose has servers."""

    accounts = True

    def serves(self, _purpose):
        return True


def rule(text, name="r"):
    return parse_radius(f"{name} {text}", int, int)


def policy(*lines):
    return RadiusPolicy(parse_untrusted("".join(f"radius {line}\n" for line in lines)), Servers(), "AB12CD34", str)


def chosen(made, caller=CALLER, side=Side.SERVER, localid="mail.example", service="smtp"):
    return made.rule_for(caller, side, identity(localid) if localid else None, service).name


@pytest.mark.parametrize(
    ("criteria", "applies"),
    [
        ("", True),
        ("role=server", True),
        ("role=client", False),
        ("localid=mail.example", True),
        ("localid=.example", True),
        ("localid=other.example", False),
        ("localid=-", False),
        ("service=imap,smtp", True),
        ("service=imap", False),
        ("user=1000 unit=postfix.service exe=/usr/sbin/smtpd", True),
        ("group=7", True),
        ("group=8", False),
        ("socket=/run/tlspool/tlspool.sock", True),
        ("socket=/run/other.sock", False),
    ],
)
def test_criteria(criteria, applies):
    assert chosen(policy(f"one {criteria}")) == ("one" if applies else "")


def test_the_first_decides():
    assert chosen(policy("a role=client", "b", "c")) == "b"


def test_a_client_without_identity():
    assert chosen(policy("one localid=-"), side=Side.CLIENT, localid="") == "one"


@pytest.mark.parametrize("lax", ["authn=no", "authz=no", "acct=no", "unanswered=accept", "anonymous=accept"])
@pytest.mark.parametrize("criterion", ["unit=postfix.service", "exe=/usr/sbin/smtpd"])
def test_who_is_not_certain_is_spared_nothing(lax, criterion):
    assert chosen(policy(f"lax {criterion} {lax}"), UNCERTAIN) == ""
    assert chosen(policy(f"lax {criterion} {lax}"), CALLER) == "lax"
    assert chosen(policy(f"strict {criterion}"), UNCERTAIN) == "strict"
    assert chosen(policy(f"strict {criterion} anonymous=refuse"), Caller(1, 1, 1, certain=False)) == "strict"


def test_defaults():
    found = dict(one.split("=", 1) for one in attributes_of(BY_DEFAULT, FILLED))
    assert found["User-Name"] == "john@example.com"
    assert (found["NAS-Identifier"], found["Called-Station-Id"], found["NAS-Port-Type"]) == ("x", "x", "Virtual")


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("", False),
        ("x" * 253, True),
        ("x" * 254, False),
        ("ü" * 126, True),
        ("ü" * 127, False),
        ("a\nb", False),
        ("a\0b", False),
        ("\x1b[2J", False),
        ("\udcff", False),
    ],
)
def test_values(value, fits):
    made = rule("User-Name=u Connect-Info={service}")
    found = attributes_of(made, FILLED | {"service": value})
    assert (f"Connect-Info={value}" in found) == fits
    assert any(one.startswith("Connect-Info=") for one in found) == fits


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("NAS-Port", "17", True),
        ("NAS-Port", "4294967296", False),
        ("NAS-IP-Address", "192.0.2.1", True),
        ("NAS-IP-Address", "2001:db8::1", False),
        ("NAS-IPv6-Address", "2001:db8::1", True),
        ("NAS-Port-Type", "Ethernet", True),
        ("NAS-Port-Type", "Carrier-Pigeon", False),
        ("TLSPool-Service", "x" * 247, True),
        ("TLSPool-Service", "x" * 248, False),
    ],
)
def test_kinds(name, value, fits):
    found = attributes_of(rule(f"{name}={{remote.address}}"), FILLED | {"remote.address": value})
    assert any(one.startswith(f"{name}=") for one in found) == fits


@pytest.mark.parametrize("value", ["x" * 254, "a\nb", "a\0"])
def test_a_user_name_that_does_not_fit_refuses(value):
    with pytest.raises(PoolError) as caught:
        attributes_of(BY_DEFAULT, FILLED | {"remoteid": value})
    assert caught.value.code is Code.RADIUS_UNASKED


def test_no_user_name_is_no_fault():
    assert not any(one.startswith("User-Name=") for one in attributes_of(BY_DEFAULT, FILLED | {"remoteid": ""}))


def test_all_together_fit_into_a_packet():
    names = [one.name for one in TABLE if one.use & Use.REQUEST and one.kind == "string"]
    made = rule(" ".join(f"{name}={{service}}" for name in names))
    words = FILLED | {"service": "x" * 240}
    found = attributes_of(made, words)
    assert 4 < len(found) < len(made.attributes)
    assert sum(len(one.partition("=")[2]) for one in found) < ATTRIBUTES_B
    assert found[0].startswith("User-Name=")


def test_there_is_room_for_those_of_the_question():
    assert ATTRIBUTES + 2 <= limits.RADIUS_ATTRIBUTES


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("own", [(), ("Service-Type=Login-User",)])
def test_questions(purpose, own):
    found = question(Admission("", "AB-1", ("User-Name=a", *own), accounts=False), purpose)
    assert found[0] == "User-Name=a"
    assert "Acct-Session-Id=AB-1" in found
    words = {Purpose.AUTHENTICATE: "Authenticate-Only", Purpose.AUTHORIZE: "Authorize-Only"}
    assert [one for one in found if one.startswith("Service-Type=")] == (
        list(own) or [f"Service-Type={words[purpose]}"]
    )


def test_acct_ids():
    made = policy()
    ids = {made.acct_id(number) for number in (1, 17, 2**62)}
    assert len(ids) == 3
    assert made.acct_id(26) == "AB12CD34-1A"
    assert all(len(one) <= limits.RADIUS_ACCT_ID_B for one in ids)


# --- what answers come to -------------------------------------------------------------------------------

BOTH = Admission("", "AB-1", ("User-Name=a", "NAS-Port=1"), accounts=True, authn=True, authz=True)


def said(**fields):
    values = {
        "detail": "", "message": "", "user_name": "", "classes": (), "tags": (), "state": b"", "session_timeout_s": 0,
        "idle_timeout_s": 0, "interim_s": 0, "terminate": 0, "server": "192.0.2.1:1812", "elapsed_ms": 1,
    }  # fmt: skip
    return AccessTold(access=Access.ACCEPTED, **{**values, **fields})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((0, 0), (0, 0), (0, 0)), ((60, 1), (0, 0), (60, 1)), ((60, 1), (30, 0), (30, 0)), ((30, 1), (60, 0), (30, 1))],
)
def test_the_shorter_time_counts_with_its_action(first, second, expected):
    answers = (said(session_timeout_s=seconds, terminate=action) for seconds, action in (first, second))
    access = BOTH
    for purpose, answer in zip(Purpose, answers, strict=True):
        access = merged(access, purpose, answer)
    assert (access.session_timeout_s, access.terminate) == expected


def test_whatever_the_order():
    answers = {
        Purpose.AUTHENTICATE: said(idle_timeout_s=9, state=b"n", user_name="n", interim_s=60, session_timeout_s=10),
        Purpose.AUTHORIZE: said(idle_timeout_s=5, state=b"z", user_name="z", session_timeout_s=20),
    }
    results = set()
    for order in itertools.permutations(answers):
        access = BOTH
        for purpose in order:
            access = merged(access, purpose, answers[purpose])
        results.add(access)
    [access] = results
    assert (access.idle_timeout_s, access.state, access.interim_s, access.session_timeout_s) == (5, b"z", 60, 10)
    assert access.attributes == ("User-Name=z", "NAS-Port=1")


def test_of_one_purpose_all_counts():
    only = Admission("", "AB-1", ("User-Name=a",), accounts=True, authn=True)
    access = merged(only, Purpose.AUTHENTICATE, said(state=b"n", user_name="real"))
    assert (access.state, access.attributes) == (b"n", ("User-Name=real",))


def test_what_is_kept_is_bounded_and_printable():
    access = BOTH
    for number in range(3):
        tags = tuple(f"{number}-{one}\n" for one in range(limits.RADIUS_TAGS))
        classes = tuple(bytes([number, one]) for one in range(limits.RADIUS_CLASSES))
        access = merged(access, Purpose.AUTHORIZE, said(tags=tags, classes=classes))
    assert (len(access.tags), len(access.classes)) == (limits.RADIUS_TAGS, limits.RADIUS_CLASSES)
    assert all(tag.isprintable() for tag in access.tags)


@pytest.mark.parametrize(("text", "shown"), [("plain", "plain"), ("a\x1b[2Jb\n\u202ec", "a?[2Jb??c"), ("ü", "ü")])
def test_printable(text, shown):
    assert printable(text) == shown
