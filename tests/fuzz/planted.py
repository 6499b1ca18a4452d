"""A target with a fault in it, so that a test can see a long run find one."""

from __future__ import annotations

from tests.fuzz.target import Target
from tlspool_worker.certificate_der import BadDer, elements_untrusted


def _check(data: bytes) -> bool:
    """Three elements, one in the other: by chance alone nobody comes upon them."""
    found = 0
    try:
        while data:
            (element,) = elements_untrusted(data)
            if element.tag != (0x30, 0x31, 0xA3)[found]:
                return False
            data = element.body
            found += 1
            assert found < 3, "planted"
    except (BadDer, ValueError):
        return False
    return True


TARGETS = (
    Target(
        "planted",
        "Never three elements in each other.",
        _check,
        lambda: (b"\x30\4\4\2ab", b"\x31\0"),
        (b"\x31\2", b"\xa3\0"),  # with these every seed of chance finds it in 10 000 inputs; without, some in a million
        16,
    ),
)
