"""The facts that daemons speak of, by name: one row for each event, with who reads it besides the log.

A fact is said once, where it happens (``log.note`` or a Note of a core), and has three readers: the log, the metrics
(metric_table.py says which they count), and the audit trail, for the rows that are ``recorded``.  docs/events.md
is made from this table.
"""

from __future__ import annotations

from enum import Enum

from tlspool_common.record import record


class Recorded(Enum):
    """Whether a fact goes into the audit trail."""

    NO = ""
    AFTER = "yes"  # written when it is said
    BEFORE = "before"  # written, and known to be, before what it speaks of happens


@record
class Event:
    """One row.

    ``daemons``: letters of Part, and O for ``tlspool-online``, R for ``tlspool-radius``.  ``provoked``: remotes or
    callers can make it happen as often as they like, so that only so many lines a second are written.
    """

    daemons: str
    doc: str
    recorded: Recorded = Recorded.NO
    provoked: bool = False


_YES, _FIRST = Recorded.AFTER, Recorded.BEFORE

TABLE: dict[str, Event] = {
    # --- sessions -----------------------------------------------------------------------------------------
    "session.start": Event("B", "a session relays: who asked for it, who is at both ends, under what TLS", _FIRST),
    "session.end": Event("B", "a session that relayed is over: why, how long, how many bytes each way", _YES),
    "session.refused": Event("B", "policy, or the request, kept a session from coming about", _YES, provoked=True),
    "session.failed": Event("B", "something else did: the remote, keyd, a token, the network", _YES, provoked=True),
    "session.kill": Event("B", "an operator ends a session", _YES),
    "sessions.kill": Event("B", "an operator ends several: those of a caller, a remote, a worker, or all", _YES),
    "radius.test": Event("B", "an operator asks the RADIUS servers about a remote", _YES),
    "radius.retry": Event("B", "an operator has accounting records sent now, to dead servers too", _YES),
    "session.resumed": Event("B", "a session of an earlier broker is under this one's control now", _YES),
    "session.not_kept": Event("B", "something of a session fits no record: no later broker will control it"),
    "session.reauthenticated": Event("B", "the remote of a session was asked once more who it is", _YES),
    "session.asked": Event(
        "B", "the remote of a client asks once more who we are; and whether it was told", _YES, True
    ),
    "radius.answered": Event("B", "what has become of a question to RADIUS servers, and how long it took"),
    "radius.rejected": Event("B", "a RADIUS server refuses a remote: which, and what it says", _YES, provoked=True),
    "radius.unanswered": Event(
        "B", "no RADIUS server has said anything about a remote; and whether its rule lets it in", _YES, provoked=True
    ),
    "radius.unkept": Event("B", "the helper cannot keep an accounting record, and says why", provoked=True),
    "session.renewed": Event("B", "a session timeout of RADIUS was over, and servers were asked again", _YES),
    "radius.disconnect": Event("B", "a RADIUS server ends a session (RFC 5176)", _YES),
    "radius.change": Event("B", "a RADIUS server changes timeouts or tags of a session (RFC 5176)", _YES),
    "session.asks_online": Event("B", "a handshake waits for the network to say whether the remote is revoked"),
    "session.attached": Event("B", "a connection has taken control of a session"),
    "session.detached": Event("B", "a connection has given up control of a session"),
    "localid.proposed": Event("B", "an application is asked whether it wants to be this identity"),
    "localid.chosen": Event("B", "it does"),
    "localid.refused": Event("B", "it does not"),
    # --- applications -------------------------------------------------------------------------------------
    "command.refused": Event("B", "a command of an application was refused: the code says why", _YES, provoked=True),
    "command.refusals": Event(
        "B", "so many more of one connection were, than there are lines of them", _YES, provoked=True
    ),
    "caller.connected": Event("B", "an application has connected"),
    "caller.gone": Event("B", "an application's connection is over"),
    "caller.refused": Event("B", "a user has too many connections", _YES, provoked=True),
    "caller.descriptors_lost": Event("B", "the kernel did not deliver all descriptors of a frame", provoked=True),
    "caller.descriptor_hangs": Event(
        "B", "what a user has passed cannot be closed, as a file system does not answer: no more is taken", _YES, True
    ),
    "listener.paused": Event("BK", "no connection can be taken for a moment: descriptors are used up", provoked=True),
    # --- the AAA of applications ----------------------------------------------------------------------------
    "aaa.accepted": Event("B", "a RADIUS server accepts whom an application has asked about", _YES, provoked=True),
    "aaa.rejected": Event("B", "it does not: whom, what for, and what it says", _YES, provoked=True),
    "aaa.unanswered": Event("B", "no server has answered an application, or none could be asked", _YES, provoked=True),
    "account.started": Event("B", "an application begins to account for something: whose, what", _YES, provoked=True),
    "account.ended": Event("B", "that is over: how many items, and why", _YES, provoked=True),
    "account.resumed": Event("B", "what applications account for is known from an earlier broker: how many items"),
    "account.unreadable": Event("B", "a file about such an item cannot be read, or written, and stays as it is"),
    # --- services for people ------------------------------------------------------------------------------
    "choice.service_registered": Event("B", "a program that lets a user choose identities is there", _YES),
    "choice.service_gone": Event("B", "it is gone"),
    "choice.asked": Event("B", "it is asked"),
    "choice.made": Event("B", "its user has chosen", _YES),
    "choice.stored": Event("B", "the choice is in the disclose database", _YES),
    "choice.not_stored": Event("B", "the choice could not be stored; the session goes on"),
    "pin.service_handed_over": Event("B", "a program that asks for PINs was passed to keyd", _YES),
    "pin.service_registered": Event("K", "a program that asks people for PINs is there", _YES),
    "pin.service_gone": Event("K", "it is gone"),
    "pin.service_denied": Event("K", "its user may not ask for PINs", _YES, provoked=True),
    "pin.service_refused": Event("K", "there are too many such programs", provoked=True),
    "pin.service_broken": Event("K", "what it sent is no frame", provoked=True),
    # --- trust on first use -------------------------------------------------------------------------------
    "pin.stored": Event("B", "a remote that was seen for the first time is pinned", _YES),
    "pin.not_stored": Event("B", "that could not be stored; the session goes on"),
    # --- databases and configuration ----------------------------------------------------------------------
    "database.changed": Event(
        "B", "an operator has changed the databases: who, what, and the generation it made", _YES
    ),
    "record.unusable": Event("B", "a record of a database cannot be used; said once for each"),
    "setting.ignored": Event("BWK", "a line of the configuration has no effect"),
    "reload.done": Event("BWK", "the configuration was read again: what is in force now", _YES),
    "reload.refused": Event("BWK", "it is wrong, and nothing has changed; one line for each problem", _YES),
    "reload.needs_restart": Event("BWK", "some settings count only when the daemon is started again"),
    # --- keys ---------------------------------------------------------------------------------------------
    "sign.done": Event(
        "K", "a key was used: for which session, which key, what was signed, and how long it took", _FIRST
    ),
    "sign.refused": Event("K", "a signature was refused: the code says why", _YES, provoked=True),
    "sign.refusals_withheld": Event("K", "so many more were refused in one second than there are lines of them", _YES),
    "token.opened": Event("K", "a token process has loaded its module, and logged in; or why not", _YES),
    "token.again": Event("K", "a key or a token was not found; a fresh process looks once more", provoked=True),
    "token.died": Event("K", "a token process has ended by itself"),
    "token.slow": Event("K", "a token process was killed, because its module hangs"),
    "token.broken": Event("K", "a token process was ended, because it broke the table of messages"),
    "token.locked": Event("K", "an operator has locked tokens: nothing is signed with their keys", _YES),
    "token.unlocked": Event("K", "an operator has unlocked them", _YES),
    "pin.changed": Event("K", "another PIN was found in file or credential", _YES),
    "pin.refused": Event("K", "the PIN's file cannot be read, or others can read it", _YES),
    "pin.asked": Event("K", "people are asked for a token's PIN"),
    "pin.typed": Event("K", "somebody has typed one", _YES),
    "pin.accepted": Event("K", "the token has taken it", _YES),
    "pin.wrong": Event("K", "the token has not", _YES),
    "pin.stopped": Event("K", "nobody is asked any more for that token, before it locks", _YES),
    "pin.declined": Event("K", "whoever was asked did not type one"),
    "pin.unused": Event("K", "the token went away before its PIN was there"),
    # --- daemons and the borders between them ---------------------------------------------------------------
    "broker.ready": Event("B", "the broker serves", _YES),
    "broker.stopping": Event("B", "it was told to end", _YES),
    "broker.stopped": Event("B", "it has ended", _YES),
    "broker.internal": Event("B", "a bug in the broker: where it is, without what it was about", provoked=True),
    "keyd.started": Event("K", "keyd has its configuration, and where the PIN comes from", _YES),
    "keyd.ready": Event("K", "keyd serves; so many modules are open", _YES),
    "keyd.stopped": Event("K", "keyd has ended", _YES),
    "keyd.without_tokens": Event("K", "no token is configured: nothing can be signed"),
    "keyd.refuses_to_start": Event("K", "the configuration is wrong"),
    "internal": Event("K", "a bug in keyd", provoked=True),
    "keyd.connected": Event("B", "keyd is there"),
    "keyd.lost": Event("B", "keyd is gone"),
    "keyd.refused": Event("B", "what said that it is keyd is not believed", _YES),
    "master.connected": Event("B", "a worker master is there"),
    "master.lost": Event("B", "it is gone; its workers go on"),
    "master.refused": Event("B", "what said that it is a worker master is not believed", _YES),
    "master.stop": Event("W", "the worker master was told to end"),
    "master.not_renewed": Event("W", "after a change of settings the broker could not be reached"),
    "caller.turned_away": Event("B", "a connection more than its caller may have", provoked=True),
    "limit.reached": Event(
        "B", "a caller was refused, or made room, because of a limit; how often so far", provoked=True
    ),
    "peer.refused": Event(
        "B", "a connection to the private socket is of nobody that may be there", _YES, provoked=True
    ),
    "border.broken": Event("B", "a process broke the table of messages; its channel is closed", _YES),
    "border.internal": Event("B", "a message of ours broke the table of messages: a bug"),
    "border.message": Event("B", "a message between processes"),
    "broker.died": Event("W", "the broker has died; its workers are told"),
    "broker.away": Event("W", "a worker was told that its broker has died: it waits for the next one"),
    "broker.connected": Event("WK", "the broker is there"),
    "broker.lost": Event("WK", "the broker is gone"),
    "broker.absent": Event("W", "the broker has not come for some time"),
    "broker.unreachable": Event("K", "the broker is not there yet"),
    "broker.broken": Event("W", "the broker broke the table of messages; the worker ends"),
    "broker.gone": Event("W", "the broker's channel is closed; the worker finishes what it relays"),
    # --- workers ------------------------------------------------------------------------------------------
    "worker.born": Event("B", "the master has forked a worker"),
    "worker.gone": Event("BW", "a worker has ended: its status, and what that means"),
    "worker.lost": Event("BK", "a worker's channel is closed"),
    "worker.kept": Event("W", "the master keeps the channel of a worker that an earlier master has forked"),
    "worker.rejoined": Event("B", "a worker of an earlier broker has told its sessions", _YES),
    "worker.let_go": Event("B", "a worker finishes its sessions under nobody's control", _YES),
    "worker.drain": Event("B", "an operator lets a worker finish", _YES),
    "workers.finish": Event("B", "their master has left, and none has come: those without sessions end"),
    "pool.drain": Event("B", "an operator wants no new sessions, or wants them again", _YES),
    "pool.draining": Event("B", "new sessions are refused from now on"),
    "pool.resumed": Event("B", "new sessions are taken again"),
    "master.started": Event("W", "a worker master has started, and what confines it"),
    "sandbox.on": Event("BWKOR", "a process has entered its sandbox"),
    "sandbox.off": Event("BWKOR", "it has none, as the configuration says", _YES),
    "sandbox.missing": Event("BWKOR", "a layer of the sandbox cannot be had; the process goes on without it", _YES),
    "worker.condemned": Event("B", "a worker is ended, because it said what it has no business to say", _YES),
    "worker.unknown": Event("B", "a master introduced a worker out of turn"),
    "worker.joined": Event("K", "a worker may ask for signatures"),
    "worker.broken": Event("K", "a worker broke the table of messages; its channel is closed", _YES),
    "worker.fork_failed": Event("W", "the kernel refused a fork"),
    "worker.too_many": Event("W", "the broker wants more workers than there may be"),
    "worker.descriptors": Event("W", "a fresh worker holds descriptors that it should not, and ends"),
    "worker.start": Event("W", "a worker has started; or why not"),
    "worker.end": Event("W", "a worker ends"),
    "worker.bug": Event("W", "a bug in a worker; it has ended"),
    "worker.refuses_to_start": Event("W", "configuration or provider is wrong"),
    "relay.python": Event("W", "the relay in C cannot be used, and why"),
    "trust.anchor_unreadable": Event("W", "OpenSSL cannot read an anchor of the trust database"),
    "handshake.bug": Event("W", "a bug met by one handshake", provoked=True),
    "reauth.failed": Event("W", "a remote that was asked once more did not prove who it is", provoked=True),
    "message.received": Event("W", "a message from the broker"),
    "message.sent": Event("W", "a message to the broker"),
    # --- the helpers: one asks the network, one speaks RADIUS -----------------------------------------------
    "helper.connected": Event("B", "a helper is there"),
    "helper.lost": Event("B", "a helper is gone; another is started when it is needed"),
    "helper.gone": Event("B", "a helper's process has ended"),
    "staple.fetched": Event("B", "there is an OCSP response for a certificate of ours"),
    "staple.absent": Event("B", "there is none"),
    "online.counters": Event("O", "what the helper has done"),
    "online.failed": Event("O", "a list or a response could not be had"),
    "online.file_read": Event("O", "a revocation list was read from a file"),
    "online.file_unusable": Event("O", "it cannot be used"),
    "online.refuses_to_start": Event("O", "its command line is wrong"),
    # --- the helper that speaks RADIUS ------------------------------------------------------------------------
    "radius.counters": Event("R", "what the helper has done"),
    "radius.server_dead": Event("R", "a server has not answered; others are asked first for a while"),
    "radius.server_back": Event("R", "it answers again"),
    "radius.bad_answer": Event("R", "a server has sent what is no answer, or somebody in its name"),
    "radius.no_secret": Event("R", "a server has no line in radius_secret_file, and is not asked"),
    "radius.secrets_in_reach": Event("B", "the other helper, taken over, could read the file with secrets"),
    "radius.secret_short": Event("R", "a shared secret can be guessed"),
    "radius.spool_open": Event("R", "the spool is open; so many records wait, so many sessions and items are open"),
    "radius.spool_unusable": Event("R", "it cannot be used, and nothing can be accounted for"),
    "radius.dynamic": Event("BR", "a server wants sessions ended or changed; of so many, or why of none"),
    "radius.dynamic_dropped": Event("R", "what came where such requests come in is none that counts"),
    "helper.internal": Event("OR", "a bug in the helper"),
    "helper.broker_broken": Event("OR", "the broker broke the table of messages"),
    "radius.refuses_to_start": Event("R", "command line, file with secrets or address to listen at cannot be used"),
    # --- these readers themselves ---------------------------------------------------------------------------
    "log.withheld": Event("BWK", "so many lines of an event were not written, in one second that had too many"),
    "audit.lost": Event("BK", "the audit trail cannot be written, since when and why; repeated while that lasts"),
    "audit.back": Event("BK", "it can be written again, and how many records are missing from it"),
    "audit.head": Event("BK", "number and hash of the newest record: an anchor that `tlspool audit verify` takes"),
    "audit.recovered": Event("BK", "in the trail only: it goes on after records or bytes were lost", _YES),
    "audit.file": Event(
        "BK", "in the trail only: a new file begins, for a new day or because the last one is full", _YES
    ),
    "audit.withheld": Event(
        "BK", "in the trail only: so many records of an event were not written, in one second", _YES
    ),
}

BEFORE = frozenset(name for name, event in TABLE.items() if event.recorded is Recorded.BEFORE)
AFTER = frozenset(name for name, event in TABLE.items() if event.recorded is Recorded.AFTER)
PROVOKED = frozenset(name for name, event in TABLE.items() if event.provoked)
