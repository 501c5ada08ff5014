"""Requests of the back-end's own: the socket of SET_BACKEND_REQ_FD, from the front-end's side."""

import logging
import socket
from collections.abc import Callable

from emu.dataplanes.types import Post, Watcher
from emu.dataplanes.vhost_user.channel import Channel, ConnectionLostError, Message
from emu.dataplanes.vhost_user.connection import Connection
from emu.dataplanes.vhost_user.messages import FLAG_REPLY, BackendRequest, encode_u64
from emu.errors import PeerError

log = logging.getLogger("emu.vhost_user")

REFUSED = 1
MESSAGES_A_TURN = 16


class BackendChannel:
    """Answers the back-end on the listener's thread; what concerns the device goes to the vCPU thread."""

    def __init__(
        self, ours: socket.socket, watcher: Watcher, config_changed: Callable[[], None], post: Post
    ) -> None:
        self._channel = Channel(ours, names=BackendRequest)
        self._watcher, self._config_changed, self._post = watcher, config_changed, post
        self._told = False  # the vCPU thread has not looked yet: one call is enough
        watcher.watch(self._channel.fileno(), self._readable)

    @classmethod
    def open(
        cls, connection: Connection, watcher: Watcher, config_changed: Callable[[], None], post: Post
    ) -> "BackendChannel | None":
        """Offer the back-end such a socket; None where it wants none. Raises PeerError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                wanted = connection.set_backend_channel(theirs.fileno())
            except PeerError:
                ours.close()
                raise
        if not wanted:
            ours.close()
            return None
        return cls(ours, watcher, config_changed, post)

    def close(self) -> None:
        """Listen no more."""
        if self._channel.fileno() >= 0:
            self._watcher.unwatch(self._channel.fileno())
            self._channel.close()

    def _readable(self) -> None:
        try:
            for _ in range(MESSAGES_A_TURN):
                if (message := self._channel.poll_message()) is None:
                    return
                self._answer(message)
            self._watcher.watch(self._channel.fileno(), self._readable)  # others first, then the rest
        except ConnectionLostError:
            self.close()
        except PeerError as error:
            log.warning("%s; the back-end's own requests are not heard any more", error)
            self.close()

    def _answer(self, message: Message) -> None:
        """CONFIG_CHANGE_MSG is heeded; a page of the back-end's in the guest's address space is refused."""
        known = message.request == BackendRequest.CONFIG_CHANGE_MSG and not message.body and not message.fds
        message.close()
        if known and not self._told:
            self._told = True
            self._post(self._tell)
        if message.need_reply:
            self._channel.offer(message.request, encode_u64(0 if known else REFUSED), flags=FLAG_REPLY)

    def _tell(self) -> None:
        self._told = False
        self._config_changed()
