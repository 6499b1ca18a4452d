"""A program that chooses identities, in the world of tests/playbook/broker.py."""

from tlspool_common.appwire import Cmd
from tlspool_common.servicewire import ChoiceFlag, Lidentry

TIMEOUT_S = 300


def register(world, flags=ChoiceFlag.WANT_DBENTRY, *, app=None, uid=1000, reqid=0, timeout_s=TIMEOUT_S, **fields):
    """Register a program; return its connection."""
    app = world.app(uid, command="lidsel", unit="", **fields) if app is None else app
    payload = Lidentry(flags=flags, timeout_s=timeout_s).to_payload()
    world.send(app, Cmd.LIDENTRY_REGISTER, payload, reqid=reqid)
    return app


def asked(world, service):
    """Return the one callback that a program got, and what is in it."""
    [frame] = world.frames(service)
    assert (frame.cmd, bool(frame.cbid)) == (Cmd.LIDENTRY_CALLBACK, True), frame
    return frame, Lidentry.from_payload_untrusted(frame.payload)


def answer(world, service, frame, *, cmd=None, reqid=None, cbid=None, payload=None, **fields):
    """Answer a callback, with these fields changed."""
    question = Lidentry.from_payload_untrusted(frame.payload)
    changed = {name: fields.get(name, getattr(question, name)) for name in Lidentry.__slots__}
    world.send(
        service,
        frame.cmd if cmd is None else cmd,
        Lidentry(**changed).to_payload() if payload is None else payload,
        reqid=frame.reqid if reqid is None else reqid,
        cbid=frame.cbid if cbid is None else cbid,
    )


def inquiry(world, service):
    """Go through the entries; return the inquiry, and what is in it."""
    frame, question = asked(world, service)
    while question.flags & ChoiceFlag.DBENTRY:
        answer(world, service, frame)
        frame, question = asked(world, service)
    return frame, question
