"""A switch's way to other networks: passt, or another peer on a Unix stream socket."""

import logging
import socket
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.stream import StreamPeer
from emu.errors import ConfigError
from emu.serve.loop import Loop
from emu.serve.switch import Member, Packet, Switch

log = logging.getLogger(__name__)

FRAMES_A_TURN: Final = 64
RETRY_S: Final = 1.0

Connect = Callable[[], StreamPeer]
"""Open the way. Raises ConfigError."""


class Uplink:
    """A `Member`: a peer that is connected to again each second after it was lost. Raises ConfigError."""

    def __init__(self, loop: Loop, switch: Switch, connect: Connect) -> None:
        self._loop, self._switch, self._connect = loop, switch, connect
        self._gone = Costs()
        self._peer: StreamPeer | None = None
        self.dropped = 0
        """Frames that came for it while nobody was there."""
        self._use(connect())
        switch.plug(self)

    @property
    def costs(self) -> Costs:
        """What it has taken so far."""
        return self._gone if self._peer is None else self._gone.total(self._peer.costs)

    def deliver(self, _source: Member, packet: Packet) -> None:
        """See `Member`."""
        if self._peer is None:
            self.dropped += 1
        else:
            self._peer.send([memoryview(packet.frame)], packet.offload)

    def close(self) -> None:
        """Leave."""
        self._switch.unplug(self)
        self._loop.clear_timer(id(self))
        self._leave()

    def _use(self, peer: StreamPeer) -> None:
        self._peer = peer
        peer.on_link = self._link
        if peer.fd is not None:
            self._loop.watch(peer.fd, self._take)

    def _link(self, up: bool) -> None:
        """The peer is in the middle of something: what follows comes later."""
        if not up:
            self._loop.set_timer(id(self), 0.0, self._again)

    def _again(self) -> None:
        """Let go of the peer, or look for one."""
        if self._peer is not None:
            self._leave()
        try:
            self._use(self._connect())
        except ConfigError as error:
            log.debug("uplink: %s", error)
            self._loop.set_timer(id(self), RETRY_S, self._again)
        else:
            log.warning("uplink: it is there again")

    def _leave(self) -> None:
        peer = self._peer
        if peer is not None:
            self._gone, self._peer = self.costs, None
            if peer.fd is not None:
                self._loop.unwatch(peer.fd)
            peer.close()

    def _take(self) -> None:
        """Frames that have come, a turn's worth; what is left in the peer's buffer follows."""
        peer = self._peer
        if peer is None:
            return
        for _ in range(FRAMES_A_TURN):
            frame = peer.receive()
            if frame is None:
                return
            self._gone.bytes_copied += len(frame)
            self._switch.forward(self, [frame], None)
        self._loop.set_timer(id(self), 0.0, self._take)


def unix_uplink(path: str) -> Connect:
    """The way to whoever listens at `path`."""

    def connect() -> StreamPeer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise ConfigError(f"--uplink {path}: {error.strerror}") from error
        return StreamPeer(sock, f"uplink {path}")

    return connect
