"""Reach the broker, from keyd and from the worker master, and make sure that it is the broker.

The socket stands in a directory that only the broker can write; that is what keeps strangers from listening
there.  The user id of the listener, by word of the kernel, is the second look (unix(7), SO_PEERCRED: of who
called listen).
"""

from __future__ import annotations

import socket

from tlspool_common import peer
from tlspool_common.channel import Channel, ChannelClosed
from tlspool_common.messages import Party
from tlspool_common.settings import Settings


def dial_broker(settings: Settings, me: Party) -> Channel:
    """Connect to the broker's private socket.

    Raises:
        ChannelClosed: nobody listens there, or somebody who is not the broker.
    """
    path = settings.private_socket
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)  # EAGAIN when the backlog is full: a reason to come again later, not to wait here
        sock.connect(str(path))
        uid = peer.credentials(sock).uid
    except OSError as error:
        sock.close()
        raise ChannelClosed(f"{path}: {error.strerror or error}") from None
    if uid != settings.broker_uid:
        sock.close()
        raise ChannelClosed(f"{path}: user {uid} listens there, not {settings.broker_uid} (setting broker_user)")
    return Channel(sock, me, Party.BROKER)
