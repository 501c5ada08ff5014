"""The channel on which a back-end asks something of its front-end."""

import os
import socket

from emu.dataplanes.vhost_user.channel import Channel
from emu.dataplanes.vhost_user.messages import BackendRequest, ProtocolError


def backend_channel(fd: int, message: str) -> Channel:
    """A channel on a peer's socket, which it owns. Raises ProtocolError; `fd` is closed then."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise ProtocolError(message, "fd", f"it is no socket: {error.strerror}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ProtocolError(message, "fd", "it is no Unix stream socket")
    return Channel(sock, names=BackendRequest)
