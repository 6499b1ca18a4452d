"""The broker's mind: events in, effects out.  No socket, clock, file or OpenSSL here or in what it is made of.

    apps.py        frames of applications        -> calls/, one file a command
    sessions.py    the life of each session      session.py: record; states.py: table of states
    questions.py   what is asked of sessions      reauth.py: remotes that are asked again, and that ask
    policy.py      what is allowed, and how      briefing.py: what a worker is told
    workers.py     which worker, and how many    keyd.py: grants, and channels to keyd
    judging.py     whom we believe               snapshot.py, validation/: by which records, by what logic
    online.py      what the network knows        explain.py: why sessions were accepted and refused
    aaa.py         what applications ask RADIUS  items.py: what they have accounted for
    radius.py      what RADIUS servers say        helper.py: the processes behind the two; admitting.py: who is let in
    connections.py request and callback ids      events.py: both vocabularies

Nothing that an application, a worker or keyd says makes ``handle`` raise.  An application gets an ERROR; a
worker that says what the table of states does not know is ended, with its sessions and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from tlspool_broker.aaa import Aaa
from tlspool_broker.access import Access
from tlspool_broker.accounting import Accounting
from tlspool_broker.admitting import Admitting
from tlspool_broker.apps import Apps
from tlspool_broker.calls import Desk
from tlspool_broker.chooser import Chooser
from tlspool_broker.connections import Connections
from tlspool_broker.describing import Describer
from tlspool_broker.events import (
    AppConnected,
    AppFrame,
    AppGone,
    AppTurnedAway,
    Began,
    Clock,
    ClosePeer,
    DrainAsked,
    Effect,
    Event,
    FinishAsked,
    HelperKind,
    HelperLost,
    HelperSaid,
    KeyAsked,
    KeydLost,
    KeydSaid,
    KillAsked,
    MasterLost,
    MasterSaid,
    RadiusAsked,
    Reconfigured,
    SessionId,
    StopAsked,
    Timer,
    TimerFired,
    WorkerLost,
    WorkerSaid,
)
from tlspool_broker.explain import Explain
from tlspool_broker.items import Items
from tlspool_broker.judging import Judging
from tlspool_broker.keyd import Keyd
from tlspool_broker.lasting import Lasting, in_memory
from tlspool_broker.online import Online
from tlspool_broker.out import Out
from tlspool_broker.questions import Questions
from tlspool_broker.quotas import Quotas
from tlspool_broker.radius import Radius
from tlspool_broker.radius_dynamic import DynamicAuthorization
from tlspool_broker.radius_policy import RadiusPolicy
from tlspool_broker.radius_questions import pass_on
from tlspool_broker.reauth import Reauth
from tlspool_broker.rejoin import Rejoin
from tlspool_broker.sessions import Sessions
from tlspool_broker.shelf import InMemory, Shelf
from tlspool_broker.snapshot import Snapshots
from tlspool_broker.wanted import Records
from tlspool_broker.workers import Worker, Workers
from tlspool_common.auditor import Witness
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import (
    AskedByRemote,
    MasterHello,
    MasterLeaves,
    RemoteTold,
    SessionHere,
    SessionsTold,
    Told,
    Traffic,
    WorkerBorn,
    WorkerGone,
)
from tlspool_common.settings import Settings

_OF_HELPER = {"crl_file", "log_level", "online", "online_ports", "online_private"}
"""Settings that the helper which asks the network is started with."""

_OF_RADIUS = {
    "log_level", "radius_authn", "radius_authz", "radius_acct", "radius_secret_file", "radius_timeout_s",
    "radius_tries", "radius_dead_s", "radius_unsigned", "radius_spool_records", "radius_dynamic",
    "radius_dynamic_listen",
}  # fmt: skip
"""Settings that the helper which speaks RADIUS is started with."""


class BrokerCore:
    """All of the broker but its sockets."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        random_bytes: Callable[[int], bytes],
        unix_time_s: Callable[[], float],
        lasting: Lasting | None = None,
        witness: Witness | None = None,
        user_name: Callable[[int], str] = str,
        shelf: Shelf | None = None,
    ) -> None:
        """Without what is ``lasting``, no other broker can go on with the sessions of this one.

        ``user_name`` has the names of users, for RADIUS servers to read; ``shelf`` what applications account for.
        """
        lasting = lasting or in_memory(random_bytes)
        self._out = Out(witness)
        self._settings = settings
        self._random_bytes = random_bytes
        self.unix_time_s = unix_time_s
        self.connections = Connections(self._out)
        self.workers = Workers(self._out, settings)
        self.keyd = Keyd(self._out, random_bytes)
        self.access = Access(settings.access)
        self.snapshots = Snapshots(records)
        self.online = Online(self._out, settings, unix_time_s)
        self.radius = Radius(self._out, settings, unix_time_s)
        self._helpers = {HelperKind.ONLINE: self.online.helper, HelperKind.RADIUS: self.radius.helper}
        self.accounting = Accounting(self._out, settings, self.radius, self.workers, unix_time_s)
        self.judging = Judging(self._out, settings, self.online, unix_time_s)
        self.explain = Explain(unix_time_s)
        self.chooser = Chooser(self._out, settings, records, self.snapshots, self.access, self.connections, unix_time_s)
        self.quotas = Quotas(self._out, settings)
        self.radius_policy = RadiusPolicy(settings, self.radius, lasting.key("accounting")[:4].hex().upper(), user_name)
        self.admitting = Admitting(
            self._out,
            settings,
            self.connections,
            self.judging,
            self.radius,
            self.radius_policy,
            self.accounting,
        )
        self.sessions = Sessions(
            self._out,
            settings,
            self.connections,
            self.workers,
            self.keyd,
            lasting,
            self.access,
            self.chooser,
            self.online,
            self.judging,
            self.admitting,
            self.explain,
            self.quotas,
        )
        self.rejoin = Rejoin(
            self._out, self.workers, self.sessions, self.snapshots, lasting, random_bytes, self.accounting
        )
        self.accounting.bind(self.sessions.kill, self.sessions.keep, self.admitting.again)
        self.radius.on_dynamic = DynamicAuthorization(self._out, self.accounting, self.sessions.kill).asked
        self.questions = Questions(self._out, settings, self.connections)
        self.reauth = Reauth(
            self._out,
            settings,
            self.snapshots,
            self.keyd,
            self.sessions,
            self.questions,
            self.judging,
            self.admitting,
        )
        self.items = Items(self._out, shelf or InMemory(), self.radius, unix_time_s)
        self.aaa = Aaa(
            self._out,
            settings,
            self.connections,
            self.sessions.keys,
            self.radius,
            Describer(self.radius_policy),
            self.items,
            lambda: self.radius_policy.acct_id(lasting.number()),
        )
        desk = Desk(
            settings,
            self.snapshots,
            self.connections,
            self.sessions,
            self.access,
            self.questions,
            self.reauth,
            self.keyd,
            self.chooser,
            self.explain,
            self.aaa,
        )
        self._apps = Apps(self._out, desk)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take an event at a time (milliseconds of CLOCK_BOOTTIME), and return what is to be done, in order."""
        self._out.now_ms = now_ms
        match event:
            case AppFrame():
                self._apps.frame_untrusted(event)
            case WorkerSaid():
                self._worker_said(event)
            case TimerFired(timer):
                self._timer_fired(timer)
            case AppConnected(connection_id, caller):
                first_cbid = int.from_bytes(self._random_bytes(2), "big")
                self.connections.add(connection_id, caller, first_cbid)
            case AppTurnedAway(caller):
                self.quotas.turned_away(caller)
            case AppGone():
                self._apps.gone(event)
            case WorkerLost():
                self._worker_lost(event)
            case MasterSaid():
                self._master_said(event)
            case MasterLost(peer, reason):
                self.workers.master_lost(peer, reason)
            case KeydSaid(peer, keyd_message, exchange):
                if self.keyd.said(peer, keyd_message, self.workers, exchange):
                    self.sessions.keyd_joined()
            case KeydLost(peer, reason):
                self.keyd.lost(peer, reason)
            case HelperSaid(helper, exchange, told):
                (self.online if helper.kind is HelperKind.ONLINE else self.radius).said(helper, exchange, told)
            case HelperLost(helper, reason):
                self._helpers[helper.kind].lost(helper, reason)
            case KeyAsked(number, uri):
                self.keyd.ask(number, uri)
            case RadiusAsked():
                pass_on(self._out, self.radius, event)
            case KillAsked(session_id):
                session = self.sessions.get(session_id)
                if session is not None:
                    self.sessions.kill(session, "operator")
            case DrainAsked(on):
                self.sessions.room.draining = on
                self._out.note("info", "pool.draining" if on else "pool.resumed", sessions=len(self.sessions))
            case FinishAsked(worker_id):
                finishing = self.workers.by_id(worker_id)
                if finishing is not None:
                    self.workers.let_finish(finishing)
                    self.workers.replenish()
            case Reconfigured(newer, secrets_changed):
                self._reconfigured(newer, secrets_changed)
            case Began():
                for one in self._helpers.values():
                    one.began()
                self._look_for_items()
            case StopAsked():
                self.sessions.stop()
                self.chooser.stop()
                for one in self._helpers.values():
                    one.stop()
            case _:
                assert_never(event)
        return self._out.take()

    def _worker_said(self, event: WorkerSaid) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            return  # it is not believed any more
        message = event.message
        try:
            if self.rejoin.said(worker, message):
                return
            match message:
                case Told():
                    self.questions.told(worker, message)
                case RemoteTold():
                    self.reauth.told(worker, message)
                case AskedByRemote():
                    self.reauth.asked_by_remote(worker, message)
                case Traffic():
                    self._traffic(worker, message)
                case SessionHere() | SessionsTold():
                    pass  # were taken
                case _:
                    self.sessions.worker_said(worker, message)
        except PoolError as error:
            self._condemn(worker, error.detail)

    def _traffic(self, worker: Worker, message: Traffic) -> None:
        session = self.sessions.get(SessionId(message.session_id))
        if session is None:
            return  # it is over by now
        if session.worker is not worker:
            raise PoolError(Code.INTERNAL, f"Traffic for session {message.session_id}, which another worker has")
        self.accounting.traffic(session, message)

    def _condemn(self, worker: Worker, detail: str) -> None:
        """End a worker, with its sessions and no others."""
        self._out.note("error", "worker.condemned", worker=worker.worker_id, pid=worker.pid, detail=detail)
        self.rejoin.lost(worker)
        self.workers.condemn(worker)
        self.questions.worker_lost(worker)
        self.sessions.worker_lost(worker, "it was ended")

    def _worker_lost(self, event: WorkerLost) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            return
        level = "error" if worker.sessions or event.broken else "debug"
        self._out.note(
            level,
            "worker.lost",
            worker=worker.worker_id,
            pid=worker.pid,
            sessions=len(worker.sessions),
            detail=event.reason,
        )
        self.rejoin.lost(worker)
        if event.broken:
            self.workers.condemn(worker)
        else:
            self.workers.lost(worker.number)
        self.questions.worker_lost(worker)
        self.sessions.worker_lost(worker, event.reason)

    def _reconfigured(self, newer: Settings, secrets_changed: bool) -> None:
        """Go by other settings, in whatever begins from now on."""
        changed, _ = self._settings.changes(newer)
        self._settings.adopt(newer)
        self.access.replace(self._settings.access)
        self.quotas.replace()
        self.workers.replenish()
        if set(changed) & _OF_HELPER:
            self.online.reconfigured(self._settings)
        if secrets_changed or set(changed) & _OF_RADIUS:
            self.radius.reconfigured()
            self._look_for_items()

    def _look_for_items(self) -> None:
        if self._settings.radius_acct:
            self.items.began()

    def _master_said(self, event: MasterSaid) -> None:
        message = event.message
        match message:
            case MasterHello():
                self.workers.master_hello(event.peer, message)
            case WorkerBorn() if event.fd is not None:
                worker = self.workers.born(event.peer, message, event.fd)
                if worker is not None and message.again:
                    self.rejoin.ask(worker)
                if worker is not None:
                    self.keyd.join(worker)
                    self.sessions.workers_came()
            case MasterLeaves():
                self.workers.master_leaves(event.peer)
            case WorkerGone():
                self.workers.gone(message)
            case _:  # a WorkerBorn without a channel: the border table keeps it out
                self._out(ClosePeer(event.peer))
                self.workers.master_lost(event.peer, "a worker without a channel")

    def _timer_fired(self, timer: Timer) -> None:
        match timer.clock:
            case Clock.SESSION:
                worker = self.sessions.timed_out(SessionId(timer.number))
                if worker is not None:
                    self._condemn(worker, f"it does not let go of session {timer.number}")
            case Clock.CHOICE:
                self.chooser.timed_out(timer.number)
            case Clock.SPAWN:
                self.workers.look_for_missing()
                self.rejoin.look_whether_all()
            case Clock.IDLE:
                self.workers.look_for_idle()
            case Clock.LEFT:
                self.workers.look_for_master()
            case Clock.TELLING:
                self.rejoin.timed_out(timer.number)
            case Clock.ACCOUNTING:
                self.accounting.timed_out(timer.number)
            case Clock.AAA:
                self.aaa.timed_out(timer.number)
            case Clock.ITEMS:
                self.items.look()
            case Clock.QUESTION:
                self.questions.timed_out(timer.number)
            case Clock.HELPER:
                self._helpers[HelperKind(timer.number)].timed_out()
            case _:
                assert_never(timer.clock)
