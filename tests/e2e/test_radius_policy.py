"""examples/radius as it is shipped, in a real FreeRADIUS: what its README says of each question, asked with radclient.

No pool is here; test_radius.py has both.
"""

import shutil
import subprocess

import pytest

from tests.fixtures.freeradius import DICTIONARIES, EXAMPLES, PROGRAM, FreeRadius, radclient

WHO, WHAT = "Authenticate-Only", "Authorize-Only"
ACCEPT, REJECT = "Access-Accept", "Access-Reject"


@pytest.fixture(scope="module")
def server():
    with FreeRadius() as made:
        yield made


def question(server, name, kind, resource="home.example", service="imap", **more):
    return server.ask(User_Name=name, Service_Type=kind, NAS_Identifier=resource, TLSPool_Service=service, **more)


def test_somebody_who_is_known(server):
    answer = question(server, "alice@home.example", WHO)
    assert answer.code == ACCEPT
    assert answer.one("Class") == f"0x{b'gold'.hex()}"
    assert (answer.one("Filter-Id"), answer.one("Session-Timeout")) == ("staff", "28800")


def test_every_answer_is_signed(server):
    for name in ("alice@home.example", "bob@home.example", "nobody@home.example"):
        answer = question(server, name, WHO)
        assert next(iter(answer.attributes)) == "Message-Authenticator", "RFC 5080 section 2.2.2 wants it first"


@pytest.mark.parametrize("kind", [WHO, WHAT])
def test_somebody_who_has_left_is_told_so_and_gets_nothing_else(server, kind):
    answer = question(server, "bob@home.example", kind)
    assert (answer.code, answer.one("Reply-Message")) == (REJECT, "bob has left us")
    assert set(answer.attributes) == {"Message-Authenticator", "Reply-Message"}


def test_somebody_whom_nobody_knows(server):
    answer = question(server, "mallory@home.example", WHO)
    assert (answer.code, answer.one("Reply-Message")) == (REJECT, "mallory@home.example is not known here")


def test_a_realm_that_is_stripped_and_one_that_is_not(server):
    assert question(server, "carol@strip.example", WHO).one("Filter-Id") == "guests"
    assert question(server, "carol@home.example", WHO).code == REJECT, "home.example is not stripped"
    assert question(server, "alice@strip.example", WHO).code == REJECT, "alice has a row with her realm only"


@pytest.mark.parametrize(
    ("name", "resource", "service", "code"),
    [
        ("alice@home.example", "home.example", "imap", ACCEPT),
        ("alice@home.example", "home.example", "xmpp", ACCEPT),
        ("dora@foreign.example", "home.example", "imap", ACCEPT),
        ("dora@Foreign.Example", "home.example", "imap", ACCEPT),
        ("dora@foreign.example", "home.example", "pop3", REJECT),
        ("dora@foreign.example", "other.example", "imap", REJECT),
        ("anybody@wherever.example", "home.example", "smtp", ACCEPT),
        ("wherever.example", "home.example", "smtp", ACCEPT),
        ("anybody@wherever.example", "home.example", "imap", REJECT),
        ("alice@home.example", "partner.example", "imap", ACCEPT),
        ("alice@home.example", "partner.example", "smtp", REJECT),
    ],
)
def test_who_may_use_which_resource(server, name, resource, service, code):
    answer = question(server, name, WHAT, resource, service)
    assert answer.code == code
    if code == REJECT:
        domain = name.partition("@")[2] or name
        assert answer.one("Reply-Message") == f"users of {domain} may not use {service} of {resource}"


def test_what_a_resource_gives(server):
    answer = question(server, "dora@foreign.example", WHAT)
    given = [answer.one(name) for name in ("Filter-Id", "Session-Timeout", "Termination-Action")]
    assert given == ["foreign", "3600", "RADIUS-Request"]


@pytest.mark.parametrize("kind", [{}, {"Service_Type": WHO}, {"Service_Type": WHAT}])
def test_a_password_decides_where_there_is_one(server, kind):
    common = {"User_Name": "alice@home.example", "NAS_Identifier": "home.example", "TLSPool_Service": "imap", **kind}
    assert server.ask(User_Password="change-this-password", **common).code == ACCEPT
    wrong = server.ask(User_Password="a guess", **common)
    assert wrong.code == REJECT
    assert "Class" not in wrong.attributes


def test_a_question_that_proves_nothing_is_refused(server):
    assert server.ask(User_Name="alice@home.example", NAS_Identifier="home.example").code == REJECT


def test_questions_are_kept_without_their_passwords(server):
    server.ask(User_Name="carol@strip.example", User_Password="canary-password", Connect_Info="kept")
    (asked,) = server.questions(Connect_Info="kept")
    assert "User-Password" not in asked
    assert "canary" not in (server.directory / "var" / "asked").read_text() + server.output()


def test_who_has_the_wrong_secret_is_not_answered(server):
    wrong = {"User_Name": "alice@home.example", "Service_Type": WHO}
    assert radclient(server.auth_port, "auth", "another secret", wrong, wait_s=0.5).code == ""


def test_records_come_as_they_were_sent(server):
    sent = {
        "User_Name": "alice@home.example",
        "Acct_Session_Id": "5f2a",
        "Acct_Status_Type": "Stop",
        "Acct_Input_Octets": "4294967295",
        "Acct_Input_Gigawords": "3",
        "TLSPool_Kind": "mail",
        "TLSPool_Items": "7",
    }
    assert server.account(**sent).code == "Accounting-Response"
    (record,) = server.records(Acct_Session_Id="5f2a")
    assert {name: record[name.replace("_", "-")] for name in sent} == {name: [value] for name, value in sent.items()}


def test_a_partner_is_asked_about_its_own_users_and_we_decide_what_they_may_use():
    partner_people = 'dora@partner.example\n\tClass = "theirs", Filter-Id = "their-tag", Reply-Message = "hello"\n'
    with FreeRadius(
        people=partner_people,
        realms="realm partner.example {\n\tnostrip\n}\n",
        resources="home.example/*/partner.example\n",
    ) as partner:
        realms = (
            f"home_server partner {{\n\ttype = auth\n\tipaddr = 127.0.0.1\n\tport = {partner.auth_port}\n"
            f'\tsecret = "{partner.secret}"\n\tresponse_window = 4\n\tstatus_check = none\n}}\n'
            "home_server_pool partner {\n\thome_server = partner\n}\n"
            "realm partner.example {\n\tauth_pool = partner\n\tnostrip\n}\n"
        )
        resources = 'home.example/imap/partner.example\n\tFilter-Id = "our-tag"\n'
        with FreeRadius(realms=realms, resources=resources) as home:
            answer = question(home, "dora@partner.example", WHO)
            assert (answer.code, answer.one("Class")) == (ACCEPT, f"0x{b'theirs'.hex()}")
            assert "Filter-Id" not in answer.attributes, "tags are ours to give"
            answer = question(home, "dora@partner.example", WHAT)
            assert (answer.code, answer.one("Filter-Id")) == (ACCEPT, "our-tag")
            assert answer.one("Message-Authenticator")
            refused = question(home, "eve@partner.example", WHO)
            assert (refused.code, refused.one("Reply-Message")) == (REJECT, "eve@partner.example is not known here")
            asked = len(partner.questions())
            assert question(home, "dora@partner.example", WHAT, service="pop3").code == REJECT
            assert len(partner.questions()) == asked, "what may not be used here is nobody else's matter"
            assert all(one["NAS-Identifier"] == ["home.example"] for one in partner.questions())


def test_the_pieces_fit_into_the_configuration_of_the_distribution(tmp_path):
    """As the README says: copied into sites-enabled, policy.d and mods-enabled of a server that is there already."""
    config = tmp_path / "3.0"
    shutil.copytree("/etc/freeradius/3.0", config, symlinks=False)
    (config / "mods-enabled" / "eap").unlink()  # has certificates that a fresh host has not made
    for piece, place in (
        ("site.conf", "sites-enabled/tlspool"),
        ("policy.conf", "policy.d/tlspool"),
        ("people", "people"),
        ("resources", "resources"),
        ("dictionary.tlspool", "dictionary.tlspool"),
    ):
        shutil.copy(EXAMPLES / piece, config / place)
    modules = (EXAMPLES / "modules.conf").read_text()
    (config / "mods-enabled" / "tlspool").write_text("".join(blocks(modules, "files", "detail")))
    with (config / "dictionary").open("a") as file:
        file.write("$INCLUDE dictionary.tlspool\n")
    for name in ("default", "inner-tunnel"):
        (config / "sites-enabled" / name).unlink()
    conf = config / "radiusd.conf"
    local = (EXAMPLES / "local.conf").read_text().replace("/var/log/freeradius/tlspool", str(tmp_path))
    text = conf.read_text().replace("/etc/freeradius", str(tmp_path)).replace("raddbdir = ", f"{local}\nraddbdir = ")
    conf.write_text(text.replace("\tuser = freerad", "").replace("\tgroup = freerad", ""))
    done = subprocess.run(
        [PROGRAM, "-C", "-x", "-d", str(config), "-D", DICTIONARIES], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def blocks(text, *kinds):
    """Yield the blocks of configuration whose first word is one of these."""
    block = []
    for line in text.splitlines(keepends=True):
        if block or line.split(" ")[0] in kinds:
            block.append(line)
            if line == "}\n":
                yield "".join(block)
                block = []
