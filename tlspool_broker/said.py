"""Which messages go between the broker and its workers and helpers; messages.py has the table of all borders."""

from __future__ import annotations

from tlspool_common.messages import (
    AccessTold,
    Account,
    Accounted,
    AccountSettled,
    AskAccess,
    AskedByRemote,
    AskExport,
    AskFact,
    AskRadius,
    AskRemote,
    AskRevocation,
    AskStaple,
    AskTraffic,
    ClientHelloSeen,
    DynamicAsked,
    DynamicTold,
    EndKept,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    KeepRecord,
    OnlineHello,
    PlainConnected,
    Proceed,
    RadiusHello,
    RadiusTold,
    RemoteShown,
    RemoteTold,
    RevocationTold,
    SessionEnded,
    SessionHere,
    SessionsTold,
    StapleTold,
    StartSession,
    TellSessions,
    Told,
    Traffic,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    Verdict,
    WorkerOwner,
)

OfSession = ClientHelloSeen | RemoteShown | HandshakeDone | HandshakeFailed | SessionEnded
"""What a worker says of the course of a session."""

FromWorker = OfSession | Told | RemoteTold | AskedByRemote | SessionHere | SessionsTold | Traffic
ToWorker = (
    TrustBegin
    | TrustAnchor
    | WorkerOwner
    | StartSession
    | UseCredential
    | Proceed
    | Verdict
    | KeepRecord
    | TellSessions
    | PlainConnected
    | EndSession
    | AskExport
    | AskFact
    | AskRemote
    | AskTraffic
    | EndKept
)

FromHelper = (
    OnlineHello | RevocationTold | StapleTold | RadiusHello | AccessTold | Accounted | RadiusTold | DynamicAsked
)
ToHelper = AskRevocation | AskStaple | AskAccess | Account | AccountSettled | AskRadius | DynamicTold
