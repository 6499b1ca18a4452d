"""A second opinion on what keyd signs: regular expressions, another library's curves, and rebuilding from parts.

Nothing here is shared with tlspool_keyd: a mistake would have to be made twice.
"""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.asymmetric import ec

S = re.DOTALL
IN_TLS13 = {0x0804, 0x0805, 0x0806, 0x0403, 0x0503, 0x0807}
IN_TLS12 = IN_TLS13 | {0x0401, 0x0501, 0x0601, 0x0603}
CURVES = {23: ec.SECP256R1(), 24: ec.SECP384R1(), 25: ec.SECP521R1()}
PRIMES = {29: (32, 2**255 - 19), 30: (56, 2**448 - 2**224 - 1)}
VERIFY = {
    "server": re.compile(rb" {64}TLS 1\.3, server CertificateVerify\0(?:.{32}|.{48})", S),
    "client": re.compile(rb" {64}TLS 1\.3, client CertificateVerify\0(?:.{32}|.{48})", S),
}
EXCHANGE = re.compile(
    rb".{64}\x03\0(?:\x17\x41\x04.{64}|\x18\x61\x04.{96}|\x19\x85\x04.{132}|\x1d\x20.{32}|\x1e\x38.{56})", S
)
FOREIGN = [
    re.compile(rb".{0,2}[\t\n\r -~]{18}", S),
    re.compile(rb".{4}[\t\n\r -~]{18}", S),
    re.compile(rb"SSHSIG|DSSEv1 "),
    re.compile(rb"[\x84-\x86].(?:.{0,9})Signature", S),
    re.compile(rb"\0\0.\0{5}", S),
    re.compile(rb".{17}[\x20-\x2f]\x22.\0{4}", S),
]


class Wrong(Exception):
    """It is not."""


def need(condition: object) -> None:
    if not condition:
        raise Wrong


def is_point(group: int, data: bytes) -> bool:
    if group in PRIMES:
        size, prime = PRIMES[group]
        return len(data) == size and int.from_bytes(data, "little") < prime
    if group not in CURVES or data[:1] != b"\4":
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVES[group], data)
    except ValueError:
        return False
    return True


# --- other formats ----------------------------------------------------------------------------------------------------


def tag_and_length(data: bytes) -> tuple[int, int | None]:
    """Return (bytes of header, length) of the element at the start."""
    found = re.match(rb".[\x80-\xff]*[\0-\x7f](.)" if data[0] & 31 == 31 else rb".(.)", data, S)
    need(found)
    octet = found[1][0]
    if octet == 0x80:
        return found.end(), None
    if octet < 0x80:
        return found.end(), octet
    more = data[found.end() : found.end() + octet - 0x80]
    return found.end() + octet - 0x80, int(more.hex() or "0", 16)


def elements(data: bytes, until_end_mark: bool) -> int:
    """Return the length of the elements at the start: all of the data, or to 00 00 inclusive."""
    at = 0
    while True:
        if until_end_mark and data[at : at + 2] == b"\0\0":
            return at + 2
        if at == len(data) and not until_end_mark:
            return at
        at += element(data[at:])


def element(data: bytes) -> int:
    head, length = tag_and_length(data)
    if length is None:
        need(data[0] & 0x20)
        return head + elements(data[head:], True)
    need(head + length <= len(data))
    return head + length


def is_ber(data: bytes) -> bool:
    if not re.match(rb"[\x30\x31\x3f\x60]|\x7f\x4e", data):
        return False
    try:
        need(element(data) == len(data))
        head, length = tag_and_length(data)
        if data[0] == 0x60:
            return data[head] == 6
        if length is not None:
            elements(data[head:], False)
    except (Wrong, IndexError):
        return False
    return True


def after_names(data: bytes) -> bytes | None:
    """What comes behind two domain names at offset 18."""
    rest = data[18:]
    for _ in range(2):
        while rest and rest[0]:
            if rest[0] > 63:
                return None
            rest = rest[1 + rest[0] :]
        if not rest:
            return None
        rest = rest[1:]
    return rest


def is_foreign(data: bytes) -> bool:
    first = data[:4]
    if min(int(first.hex(), 16), int(first[::-1].hex(), 16)) <= len(data) or is_ber(data):
        return True
    if any(pattern.match(data) for pattern in FOREIGN):
        return True
    rest = after_names(data)
    if rest and rest[:2] == data[:2] and rest[4:8] == data[4:8]:
        return True
    for end, mark in ((-6, rb"[\x04\x06]\xff"), (-10, rb"\x05\xff\0{4}")):
        if re.match(mark, data[end:]) and int(data[-4:].hex(), 16) < len(data):
            return True
    return False


# --- the transcript -------------------------------------------------------------------------------------------------


def blocks(size: int, data: bytes) -> list[bytes]:
    """Split into vectors with ``size`` octets of length each."""
    found = []
    while data:
        length = int(data[:size].ljust(size, b"\xff").hex(), 16)
        found.append(data[size : size + length])
        need(len(found[-1]) == length)
        data = data[size + length :]
    return found


def first(size: int, data: bytes) -> tuple[bytes, bytes]:
    """Take a vector off the front."""
    need(len(data) >= size)
    length = int(data[:size].hex(), 16)
    need(len(data) >= size + length)
    return data[size : size + length], data[size + length :]


def kinds_of(extensions: bytes) -> list[bytes]:
    if not extensions:
        return []
    body, rest = first(2, extensions)
    need(not rest)
    kinds = []
    while body:
        kinds.append(body[:2])
        need(len(body) >= 4)
        _, body = first(2, body[2:])
    need(len(set(kinds)) == len(kinds))
    return kinds


def is_sequence(data: bytes) -> bool:
    try:
        head, length = tag_and_length(data)
    except (Wrong, IndexError):
        return False
    return data[0] == 0x30 and length is not None and head + length == len(data)


def hello(body: bytes) -> tuple[bytes, bytes]:
    need(body[:2] == b"\3\3" and len(body) > 34)
    session, rest = first(1, body[34:])
    need(len(session) <= 32)
    return session, rest


def check_certificates(body: bytes) -> None:
    chain, rest = first(3, body)
    need(chain and not rest)
    need(all(len(each) >= 4 and is_sequence(each) for each in blocks(3, chain)))


def check_transcript(content: bytes, scheme: int) -> None:
    parts, rest = [], content
    while rest:
        body, after = first(3, rest[1:])
        parts.append((rest[0], body))
        rest = after
    numbers = [number for number, _ in parts]
    need(numbers in ([1, 2, 11, 12, 13, 14, 11, 16], [1, 2, 11, 22, 12, 13, 14, 11, 16]))
    if 22 in numbers:
        _, status = parts.pop(3)
        need(status[:1] == b"\1")
        answer, rest = first(3, status[1:])
        need(answer and not rest)
    client, server, chain, exchange, request, done, own_chain, own_exchange = (body for _, body in parts)
    _, rest = hello(client)
    suites, rest = first(2, rest)
    compressions, extensions = first(1, rest)
    need(suites and len(suites) % 2 == 0 and len(suites) <= 65534 and b"\0" in compressions)
    kinds_of(extensions)
    _, rest = hello(server)
    need(len(rest) >= 3 and rest[2] == 0 and b"\0\x2b" not in kinds_of(rest[3:]))
    check_certificates(chain)
    need(exchange[:2] == b"\3\0" and len(exchange) > 3)
    group = exchange[2]
    point, rest = first(1, exchange[3:])
    need(is_point(group, point) and len(rest) > 2)
    signature, rest = first(2, rest[2:])
    need(signature and not rest)
    types, rest = first(1, request)
    schemes, rest = first(2, rest)
    names, rest = first(2, rest)
    need(types and schemes and len(schemes) % 2 == 0 and len(schemes) <= 65534 and not rest)
    need(all(len(name) >= 2 and is_sequence(name) for name in blocks(2, names)))
    need(scheme.to_bytes(2, "big") in [schemes[at : at + 2] for at in range(0, len(schemes), 2)])
    need(not done)
    check_certificates(own_chain)
    point, rest = first(1, own_exchange)
    need(is_point(group, point) and not rest)


def verdict(content: bytes, side: str, scheme: int) -> str:
    """Return the name of the shape, or ''."""
    if VERIFY[side].fullmatch(content):
        return "tls13-certificate-verify" if scheme in IN_TLS13 else ""
    if scheme not in IN_TLS12:
        return ""
    if side == "server":
        point_at = 68
        right = EXCHANGE.fullmatch(content) and is_point(content[66], content[point_at:]) and not is_foreign(content)
        return "tls12-server-key-exchange" if right else ""
    try:
        check_transcript(content, scheme)
    except Wrong:
        return ""
    return "" if is_foreign(content) else "tls12-client-certificate-verify"
