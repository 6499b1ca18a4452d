"""A session of an event loop is asked through its pool."""

import asyncio

import libstub
from libstub import aio, questions


def test_questions_in_an_event_loop(pool, echo_server):
    server = echo_server(pool, localid="localhost")

    async def ask():
        reader, writer = await aio.open_connection(
            "127.0.0.1", server.port, remoteid="localhost", pool=str(pool.socket)
        )
        session = writer.get_extra_info("tlspool")
        found = await asyncio.gather(
            session.pool.ask(questions.channel_binding(session.ctlkey, "tls-exporter")),
            session.pool.ask(questions.export(session.ctlkey, "EXPERIMENTAL-x", None, 32)),
            session.pool.ask(questions.distinguished(session.ctlkey, "subject", False)),
        )
        refused = None
        try:
            await session.pool.ask(questions.channel_binding(session.ctlkey, "tls-unique"))
        except libstub.NotAvailable as error:
            refused = error.code
        other = await asyncio.to_thread(server.await_session)
        same = await asyncio.to_thread(
            lambda: [
                other.channel_binding(),
                other.export_keying_material("EXPERIMENTAL-x", None, 32),
                other.distinguished_name(local=True),
            ]
        )
        writer.close()
        await writer.wait_closed()
        return found, same, refused, await reader.read()

    found, same, refused, _ = asyncio.run(ask())
    assert found == same
    assert refused == 126
