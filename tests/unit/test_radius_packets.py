"""Packets of the helper against a codec that knows nothing of it (tests/fixtures/radius_codec.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import account, question
from tlspool_common import limits
from tlspool_common.messages_radius import Status
from tlspool_common.radius_table import BY_NAME, TABLE, VENDOR, Use
from tlspool_radius import bounds, packets
from tlspool_radius.packets import BadAttribute, BadPacket, Fault

SECRET = b"0x4d secret"
RANDOM = bytes(range(16))

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
names = st.sampled_from([one.name for one in TABLE if one.use & Use.REQUEST and one.kind in ("string", "octets")])
texts_sent = st.lists(st.tuples(names, texts), max_size=12)
octets = st.binary(min_size=1, max_size=253)
secrets = st.binary(min_size=1, max_size=64)


def raw_key(name):
    one = BY_NAME[name]
    return (VENDOR, one.number) if one.vendor else one.number


def ask(attributes=("User-Name=carol",), secret=SECRET, **options):
    return packets.question(question(*attributes, **options), secret, 9, RANDOM)


# --- what we send ------------------------------------------------------------------------------------------------


@given(sent=texts_sent, secret=secrets, password=st.binary(max_size=128), state=st.binary(max_size=253))
def test_questions_are_what_the_other_codec_reads(sent, secret, password, state):
    attributes = tuple(f"{name}={value}" for name, value in sent)
    made = ask(attributes, secret, password=password, state=state)
    found = codec.parse(made.datagram)
    assert (found.code, found.id, found.authenticator) == (1, 9, RANDOM)
    assert codec.is_signed(found, secret)
    for name in {name for name, _ in sent}:
        assert found.all(raw_key(name)) == [value.encode() for one, value in sent if one == name]
    assert found.all(codec.STATE) == ([state] if state else [])
    if password:
        assert codec.password(found, secret) == password.rstrip(b"\0")
    else:
        assert found.all(codec.USER_PASSWORD) == []
    assert len(found.pairs) == len(sent) + 1 + bool(password) + bool(state)


@given(
    sent=texts_sent,
    secret=secrets,
    classes=st.lists(octets, max_size=8),
    figures=st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5),
    session_s=st.integers(0, 2**32 - 1),
    delay_s=st.integers(-5, 2**40),
    status=st.sampled_from(Status),
    has_items=st.booleans(),
)
def test_records_are_what_the_other_codec_reads(sent, secret, classes, figures, session_s, delay_s, status, has_items):
    b_in, b_out, n_in, n_out, items = figures
    message = account(
        status,
        "s-1",
        1_700_000_000_999,
        attributes=tuple(f"{name}={value}" for name, value in sent),
        classes=tuple(classes),
        from_remote_b=b_in,
        to_remote_b=b_out,
        from_remote_records=n_in,
        to_remote_records=n_out,
        session_s=session_s,
        items=items,
        has_items=has_items,
        cause=4,
    )
    found = codec.parse(packets.record(message, secret, 3, "abc-1", delay_s).datagram)
    assert (found.code, found.id) == (4, 3)
    assert codec.is_keyed(found, secret)
    assert found.number(codec.STATUS_TYPE) == {"START": 1, "STOP": 2, "INTERIM": 3}[status.name]
    assert found.number(codec.EVENT_TIMESTAMP) == 1_700_000_000
    assert found.number(codec.DELAY_TIME) == min(max(delay_s, 0), 2**32 - 1)
    assert found.text(codec.RECORD_ID) == "abc-1"
    assert found.all(codec.CLASS) == classes
    if status is Status.START:
        assert found.all(codec.INPUT_OCTETS) == found.all(codec.SESSION_TIME) == []
    else:
        assert found.number(codec.SESSION_TIME) == session_s
        assert found.number(codec.INPUT_OCTETS) + found.number(codec.INPUT_GIGAWORDS) * 2**32 == b_in
        assert found.number(codec.OUTPUT_OCTETS) + found.number(codec.OUTPUT_GIGAWORDS) * 2**32 == b_out
        assert (found.number(47), found.number(48)) == (n_in % 2**32, n_out % 2**32)
    assert len(found.all(codec.TERMINATE_CAUSE)) == (status is Status.STOP)
    if has_items:
        assert found.number((VENDOR, 22)) + found.number((VENDOR, 23)) * 2**32 == items
    for name in {name for name, _ in sent} - {"Class"}:
        assert found.all(raw_key(name)) == [value.encode() for one, value in sent if one == name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NAS-IP-Address=192.0.2.1", b"\xc0\0\2\1"),
        ("NAS-IPv6-Address=2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("NAS-Port=4294967295", b"\xff\xff\xff\xff"),
        ("NAS-Port-Type=Virtual", b"\0\0\0\5"),
        ("Service-Type=Authorize-Only", b"\0\0\0\x11"),
        ("Service-Type=8", b"\0\0\0\x08"),
        # octets are octets: pyrad takes these for hexadecimal, and for a number
        ("Chargeable-User-Identity=0x41", b"0x41"),
        ("Chargeable-User-Identity=65", b"65"),
        ("User-Name=a=b", b"a=b"),
    ],
)
def test_values(text, value):
    assert packets.encoded(text)[1] == value


@pytest.mark.parametrize("text", ["User-Name", "User-Name=", "NAS-Port=x", "NAS-Port=-1", "NAS-Port=4294967296", "X=1"])
def test_values_that_cannot_be_sent(text):
    with pytest.raises(BadAttribute):
        packets.encoded(text)


def test_a_password_is_in_no_text_about_it():
    message = question("User-Name=x", password=b"hunter2")
    made = ask(password=b"hunter2")
    for shown in (repr(message), repr(made), str(made)):
        assert "hunter2" not in shown
        assert SECRET.decode() not in shown


# --- what we read ------------------------------------------------------------------------------------------------

pairs = st.lists(
    st.tuples(st.sampled_from([codec.CLASS, codec.REPLY_MESSAGE, codec.FILTER_ID, codec.TAG, 200]), octets), max_size=8
).map(lambda found: [(key, value[: 247 if isinstance(key, tuple) else 253]) for key, value in found])


@given(pairs=pairs, secret=secrets, signed=st.booleans(), padding=st.binary(max_size=20))
def test_answers_of_the_other_codec_are_read(pairs, secret, signed, padding):
    made = ask(secret=secret)
    asked = codec.parse(made.datagram)
    data = codec.answer(codec.ACCESS_ACCEPT, asked, secret, pairs, signed=signed)
    if not signed:
        with pytest.raises(BadPacket) as caught:
            packets.answer_untrusted(made, data, needs_signature=True)
        assert caught.value.fault is Fault.UNSIGNED
    found = packets.answer_untrusted(made, data + padding, needs_signature=signed)
    assert [one for one in found.pairs if one[0] != codec.SIGNATURE] == pairs


@given(secret=secrets, place=st.integers(0, 1000), flip=st.integers(1, 255))
def test_no_octet_of_an_answer_can_be_changed(secret, place, flip):
    made = ask(secret=secret)
    data = bytearray(codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), secret, [(codec.CLASS, b"c")]))
    data[place % len(data)] ^= flip
    with pytest.raises(BadPacket):
        packets.answer_untrusted(made, bytes(data), needs_signature=True)


@given(secret=secrets, cut=st.integers(1, 60))
def test_no_answer_can_be_cut(secret, cut):
    made = ask(secret=secret)
    data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), secret, [(codec.CLASS, b"c" * 40)])
    for shorter in (data[:-cut], data[:2] + (len(data) - cut).to_bytes(2, "big") + data[4:-cut]):
        with pytest.raises(BadPacket):
            packets.answer_untrusted(made, shorter, needs_signature=True)


@given(data=st.binary(max_size=5000))
def test_whatever_comes_there_is_one_exception(data):
    made = ask()
    for read in (
        lambda: packets.split_untrusted(data),
        lambda: packets.answer_untrusted(made, data, needs_signature=False),
        lambda: packets.request_untrusted(data, SECRET),
    ):
        try:
            read()
        except BadPacket as error:
            assert 0 < len(str(error)) < 200


@pytest.mark.parametrize("code", [codec.ACCESS_REQUEST, codec.ACCOUNTING_RESPONSE, codec.COA_ACK, 0, 255])
def test_an_answer_to_something_else(code):
    made = ask()
    with pytest.raises(BadPacket, match="no answer to the question"):
        packets.answer_untrusted(made, codec.answer(code, codec.parse(made.datagram), SECRET), needs_signature=False)
    with pytest.raises(BadPacket, match="no answer to the question"):
        data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), SECRET, number=10)
        packets.answer_untrusted(made, data, needs_signature=False)


def test_two_signatures():
    made = ask()
    asked = codec.parse(made.datagram)
    good = codec.answer(codec.ACCESS_ACCEPT, asked, SECRET, [(codec.SIGNATURE, bytes(16))])
    with pytest.raises(BadPacket, match="not the only one"):
        packets.answer_untrusted(made, good, needs_signature=True)
    with pytest.raises(BadPacket, match="wrong length"):
        data = codec.answer(codec.ACCESS_ACCEPT, asked, SECRET, [(codec.SIGNATURE, bytes(15))], signed=False)
        packets.answer_untrusted(made, data, needs_signature=True)


def test_a_signature_in_any_place_counts():
    """FreeRADIUS up to 3.2.3 puts it where the policy has it."""
    made = ask()
    asked = codec.parse(made.datagram)
    body = codec.attributes([(codec.CLASS, b"c"), (codec.SIGNATURE, bytes(16)), (codec.FILTER_ID, "f")])
    start = codec.head(codec.ACCESS_ACCEPT, asked.id, body, asked.authenticator)
    signature = codec.hmac.new(SECRET, start + body, "md5").digest()
    body = codec.attributes([(codec.CLASS, b"c"), (codec.SIGNATURE, signature), (codec.FILTER_ID, "f")])
    start = codec.head(codec.ACCESS_ACCEPT, asked.id, body, asked.authenticator)
    data = start[:4] + codec.md5(start + body + SECRET).digest() + body
    assert packets.answer_untrusted(made, data, needs_signature=True).values("Class") == [b"c"]


def test_a_packet_of_the_largest_size():
    made = ask()
    pairs = [(codec.CLASS, b"x" * 253)] * 15 + [(codec.CLASS, b"x" * (4096 - 20 - 18 - 15 * 255 - 2))]
    data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), SECRET, pairs)
    assert len(data) == bounds.PACKET_B
    assert len(packets.answer_untrusted(made, data, needs_signature=True).values("Class")) == 16


@pytest.mark.parametrize("inner", [b"\x0c", b"\x0c\x00", b"\x0c\x01", b"\x0c\x09abc"])
def test_a_vendors_attribute_of_a_wrong_length(inner):
    made = ask()
    pair = (26, VENDOR.to_bytes(4, "big") + inner)
    data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), SECRET, [pair])
    with pytest.raises(BadPacket, match="vendor"):
        packets.answer_untrusted(made, data, needs_signature=True)
    foreign = (26, (9).to_bytes(4, "big") + inner)
    data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), SECRET, [foreign])
    assert packets.answer_untrusted(made, data, needs_signature=True).pairs[-1] == foreign


def test_a_vendors_attributes_in_one():
    made = ask()
    pair = (26, VENDOR.to_bytes(4, "big") + b"\x0c\x03a\x0c\x04bc")
    data = codec.answer(codec.ACCESS_ACCEPT, codec.parse(made.datagram), SECRET, [pair])
    assert packets.answer_untrusted(made, data, needs_signature=True).values("TLSPool-Tag") == [b"a", b"bc"]


# --- RFC 5176 -----------------------------------------------------------------------------------------------------


@given(
    code=st.sampled_from([codec.DISCONNECT, codec.COA]),
    secret=secrets,
    signed=st.booleans(),
    done=st.booleans(),
    states=st.lists(octets, max_size=3),
)
def test_requests_and_their_answers(code, secret, signed, done, states):
    pairs = [(codec.USER_NAME, "carol"), *[(codec.PROXY_STATE, state) for state in states]]
    data = codec.keyed(code, 77, secret, pairs, signed=signed)
    request = packets.request_untrusted(data, secret)
    answer = codec.parse(packets.dynamic_answer(request, secret, done=done, error_cause=503))
    assert (answer.code, answer.id) == (code + (1 if done else 2), 77)
    assert codec.is_answer(answer, data, secret)
    assert answer.all(codec.PROXY_STATE) == states
    assert [int.from_bytes(one, "big") for one in answer.all(codec.ERROR_CAUSE)] == ([] if done else [503])
    if signed:
        assert codec.is_signed(answer, secret, data[4:20])


@given(place=st.integers(0, 1000), flip=st.integers(1, 255), signed=st.booleans())
def test_no_octet_of_a_request_can_be_changed(place, flip, signed):
    data = bytearray(codec.keyed(codec.COA, 1, SECRET, [(codec.USER_NAME, "carol")], signed=signed))
    data[place % len(data)] ^= flip
    with pytest.raises(BadPacket):
        packets.request_untrusted(bytes(data), SECRET)


def test_bounds_of_messages_fit_packets():
    assert limits.RADIUS_CLASSES * 255 + bounds.STOP_B + 20 < bounds.PACKET_B
