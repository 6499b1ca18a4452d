"""The audit trail as a daemon uses it: what goes into it, and what happens when it cannot be written.

The auditor reads the facts of its daemon as they are said, and writes those that event_table.py records.  The few that
are recorded *before* what they speak of happens come through ``attest``: a core asks it, as it asks a database, and
where the answer is no the session does not relay, and the signature does not leave.  It is no only if the setting
``audit_required`` says that nothing may happen unrecorded; otherwise a loss is told in the log, and told again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from tlspool_common.errors import Code, PoolError
from tlspool_common.event_table import AFTER, BEFORE, PROVOKED
from tlspool_common.log import Log, Value
from tlspool_common.metrics import Reading, by_state
from tlspool_common.ration import Ration
from tlspool_common.settings import Settings
from tlspool_common.trail import Trail

TICK_S = 1.0
"""How often written records are put onto the disk, and the files looked at: what a loss of power may take."""

HEAD_S = 600.0
"""How often the head is told to the log, if there is a new one: what may be cut off a trail without being missed,
unless the daemon is asked for its head."""

REPEAT_S = 60.0
"""How often it is said that the trail is lost, while it is."""

PROVOKED_RECORDS = 1000
"""Of one event in a second, where somebody outside can make it happen.  As with refusals of keyd's: a trail that
anybody can fill up is none."""


class Witness(Protocol):
    """What a core asks before something happens that must be recorded."""

    @property
    def ready(self) -> bool:
        """Whether something that must be recorded may begin, as far as one knows."""

    def attest(self, event: str, fields: Mapping[str, Value]) -> bool:
        """Record a fact; False: it could not be, and must not come true."""


class Nobody:
    """Where there is no trail."""

    ready = True

    def attest(self, _event: str, _fields: Mapping[str, Value]) -> bool:
        """Say yes."""
        return True


class Auditor:
    """One daemon's trail, if it has one; also what has to be done now and then for its log."""

    def __init__(
        self,
        settings: Settings,
        daemon: str,
        log: Log,
        unix_time_s: Callable[[], float],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._daemon = daemon
        self._log = log
        self._clock_s = clock_s
        self._ration = Ration(PROVOKED_RECORDS, clock_s)
        self._lost_since_s: float | None = None
        self._said_s = 0.0
        self._missed_before = 0
        self._head_at_s = clock_s()
        self._told = ""
        directory = settings.audit_dir
        self.trail = Trail(directory, daemon, unix_time_s) if directory is not None else None
        if self.trail is not None:
            log.readers.append(self.read)
            self._watch()

    # --- facts ----------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether something that must be recorded may begin, as far as one knows."""
        return self.trail is None or not self._settings.audit_required or self.trail.ready()

    def check(self) -> None:
        """Do what ``ready`` does.

        Raises:
            PoolError: AUDIT_LOST.
        """
        if not self.ready:
            raise PoolError(Code.AUDIT_LOST, self.trail.lost if self.trail else "")

    def attest(self, event: str, fields: Mapping[str, Value]) -> bool:
        """Record a fact; False: it could not be, and must not come true."""
        return self.trail is None or self._append(event, fields) or not self._settings.audit_required

    def read(self, event: str, fields: Mapping[str, Value]) -> None:
        """Hear a fact, and record it if that is for after it was said."""
        if event in AFTER and event not in BEFORE and (event not in PROVOKED or self._ration.allows(event)):
            self._append(event, fields)

    def _append(self, event: str, fields: Mapping[str, Value]) -> bool:
        if self.trail is None:
            return False
        written = self.trail.append(event, fields)
        if not written or self._lost_since_s is not None:
            self._watch()
        return written

    def _watch(self) -> None:
        """Say that the trail is lost, or is there again."""
        trail, now_s = self.trail, self._clock_s()
        if trail is None:
            return
        if trail.lost and (self._lost_since_s is None or now_s - self._said_s >= REPEAT_S):
            if self._lost_since_s is None:
                self._lost_since_s, self._missed_before = now_s, trail.missed_in_all - trail.missed
            self._said_s = now_s
            self._log.error(
                "audit.lost",
                detail=trail.lost,
                missed=trail.missed_in_all - self._missed_before,
                seconds=int(now_s - self._lost_since_s),
                refuses=self._settings.audit_required,
            )
        elif not trail.lost and self._lost_since_s is not None:
            missed, seconds = trail.missed_in_all - self._missed_before, int(now_s - self._lost_since_s)
            self._lost_since_s = None
            self._log.warning("audit.back", missed=missed, seconds=seconds)

    # --- now and then ---------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Do what is to be done now and then, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()
            sync = self.trail.flush() if self.trail is not None else None
            if sync is not None and self.trail is not None:
                try:
                    await loop.run_in_executor(None, sync)
                except OSError as error:
                    self.trail.fail(error)
                    self._watch()

    def tick(self) -> None:
        """Look whether the trail is there, tell its head when that is due, and what was withheld."""
        self._log.catch_up()
        if self.trail is None:
            return
        for event, count in self._ration.withheld().items():
            self._append("audit.withheld", {"of": event, "count": count})
        self.trail.look()
        self.trail.ready()
        self._watch()
        if self._clock_s() - self._head_at_s >= HEAD_S:
            self._tell_head()

    def _tell_head(self) -> None:
        self._head_at_s = self._clock_s()
        if self.trail is None or self.trail.head is None or str(self.trail.head) == self._told:
            return
        self._told = str(self.trail.head)
        self._log.info("audit.head", head=f"{self._daemon}:{self._told}", file=str(self.trail.path or ""))

    def close(self) -> None:
        """Tell the head, put the rest onto the disk, and let go."""
        self._log.catch_up()
        if self.trail is not None and self.read in self._log.readers:
            self._tell_head()
            self.trail.close()
            self._log.readers.remove(self.read)

    # --- what an operator sees ------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``off``, ``written`` or ``lost``."""
        return "off" if self.trail is None else "lost" if self.trail.lost else "written"

    def describe(self) -> dict[str, object]:
        """Describe the trail for an operator."""
        trail = self.trail
        if trail is None:
            return {"state": self.state}
        return {
            "state": self.state,
            "required": self._settings.audit_required,
            "head": f"{self._daemon}:{trail.head}" if trail.head is not None else "",
            "file": str(trail.path or ""),
            "missed": trail.missed_in_all,
            "trouble": trail.lost,
        }

    def readings(self) -> list[Reading]:
        """Return what the metrics say of the trail."""
        written, missed = (self.trail.written, self.trail.missed_in_all) if self.trail is not None else (0, 0)
        return [
            *by_state("tlspool_audit_trail", "trail", {self.state: 1}),
            ("tlspool_audit_records", {}, written),
            ("tlspool_audit_records_lost", {}, missed),
        ]
