"""What one connection of an application is owed, message by message: the rules of sections 4 and 12.1 as a ledger.

It knows nothing of the pool, only what was said in both directions.  Used by the fuzzers of the core, where nothing
crosses, and of the whole pool, where an answer and a final ERROR may; what may have crossed is *unsure*.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.conformance.layout import COMMANDS, describe

CALLBACKS = {COMMANDS[name][0] for name in ("STARTTLS_LOCALID", "PLAINTEXT_CONNECT", "PINENTRY", "LIDENTRY_CALLBACK")}
REGISTRATIONS = {COMMANDS[name][0] for name in ("PINENTRY", "LIDENTRY_REGISTER")}
REQUESTS = REGISTRATIONS | {
    COMMANDS[name][0] for name in ("PING", "STARTTLS", "PRNG", "INFO", "CONTROL_DETACH", "CONTROL_REATTACH")
}
LOCAL = 0x80000000
ERROR = COMMANDS["ERROR"][0]


@dataclass
class Callback:
    """A callback that has come.  ``reqid`` None: the id belongs to somebody else by now."""

    cbid: int
    cmd: int
    reqid: int | None
    frame: bytes
    sure: bool


class Account:
    """The ledger of a connection."""

    def __init__(self) -> None:
        self.messages: Counter[int] = Counter()  # that were sent under a request id: each allows one to come
        self.asked: Counter[int] = Counter()  # callbacks that came under it: each allows an ERROR on top
        self.came: Counter[int] = Counter()
        self.came_but_errors: Counter[int] = Counter()
        self.owed: dict[int, bool] = {}  # by request id: whether a message must come
        self.callbacks: dict[int, Callback] = {}
        self.said: list[str] = []

    def _note(self, text: str) -> None:
        self.said.append(text)
        del self.said[:-12]

    def sent(self, frame: bytes) -> None:
        """The application has sent a message."""
        reqid, cbid, cmd = _head(frame)
        self._note(f"> {describe(frame).splitlines()[0]}")
        self.messages[reqid] += 1
        callback = self.callbacks.pop(cbid, None)
        if callback is not None:
            if callback.reqid is not None and callback.reqid != reqid:
                self.owed[callback.reqid] = False
            self._displace(reqid, answered=True)
            # PIN and identity services answer, and that is the next registration: nothing is owed
            service = callback.cmd in (COMMANDS["PINENTRY"][0], COMMANDS["LIDENTRY_CALLBACK"][0])
            self.owed[reqid] = callback.sure and not service
        elif cmd in REQUESTS or not cbid:
            self._displace(reqid, answered=False)
            self.owed[reqid] = cmd not in REGISTRATIONS
        elif cmd & LOCAL:  # perhaps a request, as the pool knows; perhaps a stray answer
            self._displace(reqid, answered=False)
            self.owed[reqid] = False

    def _displace(self, reqid: int, *, answered: bool) -> None:
        """A newer message owns a request id.  Callbacks under it are abandoned, or only lose it to an answer."""
        for callback in [one for one in self.callbacks.values() if one.reqid == reqid]:
            if answered:
                callback.reqid = None
            else:
                callback.sure = False

    def received(self, frame: bytes) -> None:
        """The application has received a message, which it must be owed."""
        reqid, cbid, cmd = _head(frame)
        self._note(f"< {describe(frame).splitlines()[0]}")
        where = "\n".join(self.said)
        assert reqid in self.messages, f"a request id that was not used\n{where}"
        if cbid:
            assert cmd in CALLBACKS, f"a callback id in a final reply\n{where}"
            sure = self.messages[reqid] - self.came[reqid] == 1
            self.callbacks[cbid] = Callback(cbid, cmd, reqid, frame, sure)
            self.asked[reqid] += 1
        else:
            assert cmd not in CALLBACKS, f"a callback without an id\n{where}"
        self.came[reqid] += 1
        if cmd == ERROR:
            for callback in self.callbacks.values():
                callback.sure = callback.sure and callback.reqid != reqid
        else:
            self.came_but_errors[reqid] += 1
        assert self.came_but_errors[reqid] <= self.messages[reqid], f"more than was asked for\n{where}"
        assert self.came[reqid] <= self.messages[reqid] + self.asked[reqid], f"more than was asked for\n{where}"
        self.owed[reqid] = False

    def open_callbacks(self) -> list[Callback]:
        """Return callbacks that have not been answered."""
        return list(self.callbacks.values())

    def debts(self) -> list[int]:
        """Return request ids that still must get a message."""
        return [reqid for reqid, owed in self.owed.items() if owed]


def _head(frame: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(frame[:2], "little"),
        int.from_bytes(frame[2:4], "little"),
        int.from_bytes(frame[4:8], "little"),
    )
