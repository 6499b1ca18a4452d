"""Questions about a session: the frames are those of the protocol, and replies that make no sense are refused."""

import pytest

from libstub import errors, questions
from libstub.errors import Misuse, NotAvailable, NotInControl, ProtocolError
from tlspool_common import errors as table
from tlspool_common.appwire import Cmd, ErrorReply, Flag, Info, Prng, Starttls
from tlspool_common.infokind import InfoKind

KEY = bytes(range(0xC0, 0xD0))


def test_the_frame_of_an_export():
    """The bytes of the protocol's own example."""
    question = questions.export(KEY, "EXPERIMENTAL-test", b"\1\2\3", 16)
    assert question.cmd == Cmd.PRNG
    assert question.payload[:6] == bytes([17, 0, 3, 0, 16, 0])
    assert question.payload[6:].rstrip(b"\0") == KEY + b"EXPERIMENTAL-test\1\2\3"


@pytest.mark.parametrize(("context", "length_b"), [(None, b"\xff\xff"), (b"", b"\0\0")])
def test_no_context_is_not_an_empty_one(context, length_b):
    assert questions.export(KEY, "EXPERIMENTAL-test", context, 16).payload[2:4] == length_b


def test_the_answer_to_an_export():
    question = questions.export(KEY, "EXPERIMENTAL-test", None, 16)
    assert question.answer(Prng(17, -1, 16, b"k" * 16).to_payload().ljust(380, b"\0")) == b"k" * 16
    for other in (Prng(18, -1, 16, b""), Prng(17, 0, 16, b""), Prng(17, -1, 17, b"")):
        with pytest.raises(ProtocolError):
            question.answer(other.to_payload())


@pytest.mark.parametrize(
    ("label", "context", "length"),
    [("", None, 1), ("x" * 335, None, 1), ("x", b"y" * 334, 1), ("x", None, -1), ("x", None, 351), ("ü", None, 1)],
)
def test_exports_that_cannot_be(label, context, length):
    with pytest.raises(Misuse):
        questions.export(KEY, label, context, length)


@pytest.mark.parametrize(
    ("part", "local", "kind"),
    [
        ("subject", False, 0x52800000),
        ("issuer", False, 0x52800001),
        ("subject", True, 0x52800100),
        ("issuer", True, 0x52800101),
    ],
)
def test_names(part, local, kind):
    question = questions.distinguished(KEY, part, local)
    assert question.payload == Info(KEY, kind).to_payload()
    assert question.payload[20:22] == b"\xff\xff"
    assert question.answer(Info(KEY, kind, b"\x30\0").to_payload()) == b"\x30\0"


@pytest.mark.parametrize(("local", "kind"), [(False, 0x52800002), (True, 0x52800102)])
def test_a_general_name(local, kind):
    question = questions.general_name(KEY, b"\x82\1x", local)
    assert question.payload == Info(KEY, kind, b"\x82\1x").to_payload()


@pytest.mark.parametrize(
    ("word", "kind"), [("tls-unique", 0x59290000), ("tls-server-end-point", 0x59290001), ("tls-exporter", 0x92660000)]
)
def test_channel_bindings(word, kind):
    question = questions.channel_binding(KEY, word)
    assert question.payload == Info(KEY, kind).to_payload()
    with pytest.raises(ProtocolError):
        question.answer(Info(KEY, kind + 1, b"v").to_payload())
    with pytest.raises(ProtocolError):
        question.answer(Info(KEY, kind).to_payload())
    with pytest.raises(ProtocolError):
        question.answer(Info.FORM.pack(KEY, kind, 335, b""))


def test_every_kind_can_be_asked_for():
    asked = {Info.from_payload_untrusted(one.payload).kind for one in (
        *(questions.distinguished(KEY, part, local) for part in ("subject", "issuer") for local in (False, True)),
        *(questions.general_name(KEY, b"x", local) for local in (False, True)),
        *(questions.channel_binding(KEY, word) for word in questions._BINDINGS),
    )}  # fmt: skip
    assert asked == set(InfoKind)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: questions.distinguished(KEY, "name", False),
        lambda: questions.general_name(KEY, b"", False),
        lambda: questions.general_name(KEY, bytes(334), False),
        lambda: questions.channel_binding(KEY, "tls-something"),
    ],
)
def test_questions_that_cannot_be(ask):
    with pytest.raises(Misuse):
        ask()


def test_asking_the_remote_again():
    request = Starttls(flags=Flag.REQUEST_REMOTEID, remoteid="john@example.com", ctlkey=bytes(16), timeout_ms=5)
    question = questions.again(request, KEY)
    sent = Starttls.from_payload_untrusted(question.payload)
    assert (sent.flags, sent.remoteid) == (Flag.RENEGOTIATE | Flag.REQUEST_REMOTEID, "john@example.com")
    assert (sent.ctlkey, sent.timeout_ms) == (KEY, 5)
    assert question.answer(Starttls(ctlkey=KEY, remoteid="x.example").to_payload()).remoteid == "x.example"
    with pytest.raises(ProtocolError):
        question.answer(Starttls(ctlkey=bytes(16)).to_payload())


@pytest.mark.parametrize(
    ("code", "kind"),
    [(124, NotAvailable), (125, NotAvailable), (126, NotAvailable), (127, NotInControl), (128, NotAvailable),
     (129, NotAvailable)],
)  # fmt: skip
def test_what_the_pool_refuses(code, kind):
    reply = ErrorReply(table.com_err(table.Code(code)), table.app_text(table.Code(code)))
    assert type(errors.from_reply_untrusted(reply)) is kind


def test_no_secret_is_in_a_repr():
    assert KEY.hex() not in repr(questions.export(KEY, "EXPERIMENTAL-x", b"secret context", 16))
    assert "secret" not in repr(questions.export(KEY, "EXPERIMENTAL-x", b"secret context", 16))
