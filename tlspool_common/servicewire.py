"""Protocol V2 as far as only services use it: programs that ask people for PINs, or to choose an identity.

docs/services.md tells what they say.  Frames and commands are in appwire.py.
"""

from __future__ import annotations

import struct
from dataclasses import field
from enum import IntFlag
from typing import ClassVar

from tlspool_common.appwire import text_field, text_untrusted
from tlspool_common.record import record


class ChoiceFlag(IntFlag):
    """Flags of pioc_lidentry.  Every SKIP_ value contains SKIP_DBENTRY; those that are given must all hold."""

    SKIP_DBENTRY = 0x80  # an entry of the database may be used without asking ...
    SKIP_USER = 0x81  # ... if the user was not dropped to find it
    SKIP_DOMAIN_SAME = 0x82  # ... if it is for the same domain
    SKIP_DOMAIN_ONEUP = 0x84  # ... if it is for the domain one level up; with SAME: for either
    SKIP_NOTROOT = 0x88  # ... if it is not for all domains
    WANT_DBENTRY = 0x100  # show me the entries before you ask
    DBENTRY = 0x1000  # this is such an entry
    DBINSERT = 0x2000  # store the choice in front
    DBAPPEND = 0x4000  # store the choice at the end
    DBREORDER = 0x8000  # move it there if it is stored already
    NEW = 0x100000  # the identity is still to come
    ONTHEFLY = 0x200000  # make the identity up


CHOICE_REGISTRATION = 0xFFF
"""Flags of a registration, which come back in every callback."""


def fitting(value: str, size_b: int) -> str:
    """Return as much of a text as a field takes: printable, and cut on a character's edge."""
    printable = "".join(character if character.isprintable() else "?" for character in value)
    return printable.encode("utf-8", "replace")[: size_b - 1].decode("utf-8", "ignore")


@record
class Pinentry:
    """pioc_pinentry: a registration, a callback and its answer, which is the next registration."""

    flags: int = 0
    attempt: int = 0
    timeout_us: int = 0
    pin_secret: str = field(default="", repr=False)
    prompt: str = ""
    token_manuf: str = ""
    token_model: str = ""
    token_serial: str = ""
    token_label: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=III128s128s36s20s20s36s")
    TEXTS: ClassVar[tuple[tuple[str, int], ...]] = (
        ("pin_secret", 128),
        ("prompt", 128),
        ("token_manuf", 36),
        ("token_model", 20),
        ("token_serial", 20),
        ("token_label", 36),
    )

    def to_payload(self) -> bytes:
        """Write the payload."""
        texts = [text_field(name, getattr(self, name), size_b) for name, size_b in self.TEXTS]
        return self.FORM.pack(self.flags, self.attempt, self.timeout_us, *texts)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Pinentry:
        """Read the payload; raises BadPayload."""
        flags, attempt, timeout_us, *texts = cls.FORM.unpack_from(payload)
        named = zip(cls.TEXTS, texts, strict=True)
        return cls(flags, attempt, timeout_us, *(text_untrusted(name, data) for (name, _), data in named))


@record
class Lidentry:
    """pioc_lidentry: ``timeout_s`` counts from now in a registration, and is a UNIX time in a callback."""

    flags: int = 0
    maxlevels: int = 0
    timeout_s: int = 0
    localid: str = ""
    remoteid: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=IHI128s128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        identities = text_field("localid", self.localid, 128), text_field("remoteid", self.remoteid, 128)
        return self.FORM.pack(self.flags, self.maxlevels, self.timeout_s, *identities)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Lidentry:
        """Read the payload; raises BadPayload."""
        flags, maxlevels, timeout_s, localid, remoteid = cls.FORM.unpack_from(payload)
        return cls(
            flags, maxlevels, timeout_s, text_untrusted("localid", localid), text_untrusted("remoteid", remoteid)
        )


@record
class Asker:
    """LOCAL_ASKER: who wants an identity, asked by the program that is to choose it; answered by the same.

    The request is empty.  ``label`` is for people: the unit or program, and its process id.
    """

    uid: int = 0
    pid: int = 0
    label: str = ""
    service: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=II256s16s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        label = text_field("label", fitting(self.label, 256), 256)
        return self.FORM.pack(self.uid, self.pid, label, text_field("service", self.service, 16))

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Asker:
        """Read the payload; raises BadPayload."""
        uid, pid, label, service = cls.FORM.unpack_from(payload)
        return cls(uid, pid, text_untrusted("label", label), text_untrusted("service", service))
