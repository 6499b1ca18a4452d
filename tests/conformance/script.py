"""The language of cases: one step a line, read into records.  Nothing happens here.

socket s                               a connected pair: [s] is passed to the pool, the other end is ours
s tls client sni=localhost cert=ID     begin a handshake at our end; `s done` waits for it, `s fails` too
plain p [seqpacket]                    the same without TLS, for plaintext
a> CMD REQID[/CBID] FIELD=VALUE... [s] as=NAME     application a sends a frame, with descriptors
a+ CMD ...                             the same, kept back until a sends the next one: both in one write
a< CMD REQID[/CBID] FIELD=VALUE...     it receives one: every byte counts, what is not named is zero
a< ERROR REQID NAME [CODE]             ... its text is free, but begins with the code in brackets
a< end                                 it receives the end
a quiet                                nothing else has come for a
a close, a shut                        it goes away; it half-closes
s> TEXT   s< TEXT   s< end   s close   data over a socket; `s< rest` is anything and the end
s reads ... s has TEXT                 the same as s< TEXT, while other things happen
s shut, s notify, s unwrap             half-close; close_notify; close_notify, and wait for theirs
s met ID, s asked-for NAME             whose certificate the pool showed; which server name it sent
pool FIELD VALUE, keyd FIELD VALUE     wait until the broker's status is so; keyd's
same $x $y, differ $x $y               compare what was kept
soon $x SECONDS                        what was kept is a UNIX time, so many seconds ahead
i service                              a PIN service: its connection is keyd's, and cannot be asked by PING
a< SAME REQID like=NAME                it receives a frame that it sent, without the callback id
localid.set ..., disclose.set ...      an operator's command (JSON fields)

Values: 17, 0x11, FLAG|FLAG, KIND, text, hex:0102, * (free), $name.  A `$name` takes the value of a received field
when it is new, and is compared when it is not; `$k...` is a random control key when it is sent first.  Parts are
joined by `+`.  `$name:16` keeps 16 bytes; the rest is zero.  `like=NAME` takes over the payload of a frame that
was named by `as=`.  `bytes=0:100` sends a part of the frame only.  `@NAME` is a fact that the stage knows.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from tests.conformance.layout import COMMANDS, ERRORS, FLAGS, KINDS


class BadScript(Exception):
    """A line of a case is not in the language."""


@dataclass(frozen=True)
class Frame:
    """A frame to send or to expect."""

    actor: str
    sent: bool
    cmd: str
    reqid: str
    cbid: str = "0"
    fields: dict[str, str] = field(default_factory=dict)
    fds: tuple[str, ...] = ()
    held: bool = False


@dataclass(frozen=True)
class Act:
    """Anything else: who does what, with which words and options."""

    actor: str
    verb: str
    words: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


Step = Frame | Act
_HEAD = re.compile(r"(?P<actor>[a-z][a-z0-9]*)(?P<verb>[<>+])\s+(?P<rest>.*)")
_OPTIONS = {"as", "like", "bytes", "code"}
APPLICATIONS = frozenset("abcdij")
"""Names of applications; i and j are the services among them.  All other names are sockets."""


def parse(text: str) -> list[tuple[str, Step]]:
    """Return (line, step) for each line of a script."""
    lines = [line.strip() for line in text.splitlines()]
    return [(line, _step(line)) for line in lines if line and not line.startswith("#")]


def _step(line: str) -> Step:
    try:
        found = _HEAD.fullmatch(line)
        if found is None:
            actor, *words = shlex.split(line, comments=True)
            plain, options = _options(words)
            if actor in ("socket", "plain", "pool", "keyd", "same", "differ", "soon") or "." in actor:
                return Act("", actor, tuple(plain), options)
            return Act(actor, plain[0], tuple(plain[1:]), options)
        actor, verb, words = found["actor"], found["verb"], shlex.split(found["rest"], comments=True)
    except (ValueError, IndexError) as error:
        raise BadScript(f"{line}: {error}") from None
    if words[0] not in {*COMMANDS, "SAME"} and not words[0].startswith("0x"):
        if actor in APPLICATIONS and words != ["end"]:
            raise BadScript(f"{line}: no command {words[0]}")
        return Act(actor, "says" if verb == ">" else "hears", tuple(words))
    reqid, _, cbid = words[1].partition("/")
    rest = words[2:]
    fds = tuple(
        word.strip("[]") for word in rest if re.fullmatch(r"\[[a-z0-9.+*]+\]", word) and not word[1:4].isdigit()
    )
    rest = [word for word in rest if word.strip("[]") not in fds]
    plain, fields = _options(rest)
    if words[0] == "ERROR" and verb == "<":
        fields["errno"], fields["code"] = plain[0], "".join(plain[1:])
        if fields["errno"] not in ERRORS:
            raise BadScript(f"{line}: no error {fields['errno']}")
    elif plain:
        raise BadScript(f"{line}: {plain}")
    elif words[0] in COMMANDS:
        unknown = set(fields) - set(COMMANDS[words[0]][1]) - _OPTIONS - {"payload"}
        if unknown:
            raise BadScript(f"{line}: no field {unknown}")
    return Frame(actor, verb != "<", words[0], reqid, cbid or "0", fields, fds, held=verb == "+")


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    pairs = [word.partition("=") for word in words if "=" in word]
    return [word for word in words if "=" not in word], {name: value for name, _, value in pairs}


def number(text: str) -> int | None:
    """Return a value that is written as a number, or as names of flags, or as a kind; None: it is none of these."""
    if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", text):
        return int(text, 0)
    if text in KINDS:
        return KINDS[text]
    total = 0
    for name in text.split("|"):
        if name not in FLAGS and not re.fullmatch(r"0x[0-9a-fA-F]+|\d+", name):
            return None
        total |= FLAGS[name] if name in FLAGS else int(name, 0)
    return total
