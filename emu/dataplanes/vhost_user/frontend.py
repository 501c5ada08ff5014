"""The VMM's end of vhost-user: a data plane whose queues another process serves.

The doorbell is an ioeventfd whose descriptor the back-end has; its call event is watched by the halted CPU or
by the machine's listener. A back-end that goes leaves its requests in the rings: the next one at the same
path takes them up again, with the area of requests in flight where it keeps one (INFLIGHT_SHMFD).
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.clock import Clock
from emu.dataplanes.types import Post, Watcher
from emu.dataplanes.vhost_user.backend_channel import BackendChannel
from emu.dataplanes.vhost_user.connection import Connection, InflightArea
from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_INFLIGHT_SHMFD,
)
from emu.dataplanes.vhost_user.reconnect import Reconnector
from emu.dataplanes.vhost_user.ring_watch import RingWatch
from emu.dataplanes.vrings import Vring, VringTable
from emu.devices.virtio.spec import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    F_VERSION_1,
    FEATURES_OK,
)
from emu.errors import ConfigError, DriverError, PeerError
from emu.kernel.membarrier import join_global_barrier

log = logging.getLogger("emu.vhost_user")

RING_FEATURES: Final = F_VERSION_1 | F_RING_EVENT_IDX | F_RING_INDIRECT_DESC
NEGOTIATED: Final = ACKNOWLEDGE | DRIVER | FEATURES_OK


class CallWatcher(Protocol):
    """Who waits for interrupts; see `emu.kernel.call_events`."""

    def watch(self, fd: int, call: Callable[[], None], /) -> None:
        """Call whenever `fd` is signalled: on the vCPU thread where the CPU is halted, else on another."""

    def unwatch(self, fd: int, /) -> None:
        """Call no more; returns when no call for it is running."""


class Host(Protocol):
    """What the plane needs of its machine. `on_spent` of the costs is the caller's to add up."""

    @property
    def clock(self) -> Clock:
        """Host time; timers run on the vCPU thread."""

    @property
    def listener(self) -> Watcher:
        """Waits for descriptors."""

    @property
    def call_events(self) -> "CallWatcher":
        """Waits for interrupts."""

    @property
    def post(self) -> Post:
        """Run a call on the vCPU thread."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the front-end knows of a device's type.

    `features` are the type's bits that may pass from the back-end to the driver. `config_size` bytes of
    configuration come from the back-end (0: `config` is the VMM's own), but for `own`: bytes by their place.
    `mtu` is what a network card tells its driver, 0 nothing.
    """

    device_type: int
    features: int
    config_size: int = 0
    config: bytes = b""
    own: Mapping[int, bytes] = field(default_factory=dict)
    mtu: int = 0


class VhostUserPlane(VringTable):
    """A `DataPlane`. `connect` makes a negotiated connection to the one back-end; `where` is for messages.

    `again` does so once the first one is lost; without it `connect` does. `on_call` hears of each interrupt
    before the guest does, `on_rings` where the used indexes are of the rings that run.
    Raises ConfigError where there is none, or one that cannot serve this device.
    """

    name = "vhost-user"
    ioeventfd = irqfd = True

    def __init__(
        self,
        connect: Callable[[], Connection],
        kind: Kind,
        queues: int,
        queue_size: int,
        host: Host,
        *,
        where: str,
        spent_there: Callable[[], Costs] | None = None,
        again: Callable[[], Connection] | None = None,
    ) -> None:
        super().__init__(queues)
        self.device_type = kind.device_type
        self._kind, self._queue_size, self._host, self._where = kind, queue_size, host, where
        self._spent_there = spent_there
        self._spent_before = spent_there() if spent_there is not None else Costs()
        self._memory: GuestMemory | None = None
        self.on_call: Callable[[], None] = lambda: None
        self.on_rings: Callable[[Sequence[int]], None] = lambda _used_idx: None
        self.on_config: Callable[[], None] = lambda: None
        """Told, on the vCPU thread, that the configuration has changed by itself."""
        self._running = self._memory_sent = False
        self._area: InflightArea | None = None
        self._costs = Costs()  # the vCPU thread's
        self._listener_costs = Costs()
        self._owner = 0
        self._reconnector = Reconnector(again or connect, host.post, self._adopt)
        self._requests: BackendChannel | None = None
        join_global_barrier()
        self.ring_watch = RingWatch(host.clock, self._tell)
        try:
            self._connection: Connection | None = connect()
        except (OSError, PeerError) as error:
            raise ConfigError(f"{where}: no back-end: {_reason(error)}; start it first") from None
        try:
            self._config = self._meet(self._connection)
        except PeerError as error:
            self._connection.close()
            raise ConfigError(f"{where}: {error}") from None
        except BaseException:
            self._connection.close()
            raise
        self._errors = [EventFd(f"{where} error {i}") for i in range(queues)]

    def _meet(self, connection: Connection) -> bytes:
        """The first back-end decides what the device is; returns its configuration."""
        self.features = connection.features & (self._kind.features | RING_FEATURES)
        if not self.features & F_VERSION_1:
            raise ConfigError(f"{self._where}: the back-end does not offer VIRTIO 1.0")
        config = self._read_config(connection)
        self._welcome(connection)
        return config

    # ---- the connection ----------------------------------------------------------------------------

    def _read_config(self, connection: Connection) -> bytes:
        if not self._kind.config_size:
            return self._kind.config
        found = bytearray(connection.get_config(self._kind.config_size))
        for at, value in self._kind.own.items():
            found[at : at + len(value)] = value
        return bytes(found)

    def _welcome(self, connection: Connection) -> None:
        """Watch a new connection; what it may ask comes over a socket of its own."""
        listener, post = self._host.listener, self._host.post
        fd = connection.channel.fileno()
        self._requests = BackendChannel.open(connection, listener, self._config_changed, post)
        gone = functools.partial(self._hung_up, connection)
        listener.watch(fd, lambda: post(gone), hangup=True)

    def _hung_up(self, connection: Connection) -> None:
        if connection is self._connection:
            self._lost(PeerError("it closed the connection"))

    def _lost(self, error: PeerError) -> None:
        """The back-end is gone, or is no good: let go of it and wait for the next one. vCPU thread."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        log.warning("%s: the back-end is lost: %s; its requests wait for the next one", self._where, error)
        self._dismiss(connection)
        self._reconnector.start()

    def _dismiss(self, connection: Connection) -> None:
        self._host.listener.unwatch(connection.channel.fileno())  # harmless where it was not welcome
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        connection.close()
        self._memory_sent = False

    def _adopt(self, connection: Connection) -> None:
        """A back-end listens again. vCPU thread."""
        self._connection = connection
        try:
            self._compare(connection)
            self._welcome(connection)
            if self._running:
                for vring in self._vrings:
                    vring.base = self._used_idx(vring) if vring.enabled else 0
                self._begin(connection)
                self._wake_both_sides()
        except PeerError as error:
            self._lost(error)
            return
        log.warning("%s: the back-end is back", self._where)

    def _compare(self, connection: Connection) -> None:
        """Another back-end must do what the driver was promised; its configuration may be another one."""
        missing = self.features & ~connection.features
        if missing:
            raise PeerError(f"it lacks features {missing:#x} that the device has")
        config = self._read_config(connection)
        if config != self._config:
            self._config = config
            self.on_config()

    def _used_idx(self, vring: Vring) -> int:
        """Where a ring of a back-end that died goes on: after the last answer that the driver can see."""
        assert self._memory is not None
        return self._memory.view(vring.used + 2, 2).cast("H")[0]

    def _wake_both_sides(self) -> None:
        """The kick of a request may have died with the former back-end, and so may an interrupt."""
        for vring in self._vrings:
            if vring.enabled and vring.kick is not None and vring.call is not None:
                vring.kick.write()
                self._tell(vring.call)

    # ---- DataPlane ---------------------------------------------------------------------------------

    def set_memory(self, memory: GuestMemory) -> None:
        """See `DataPlane`."""
        if memory is not self._memory:
            self._memory, self._memory_sent = memory, False

    def start(self) -> None:
        """See `DataPlane`. Without a back-end the queues wait for one."""
        if self._running:
            return
        assert self._memory is not None
        self._owner = threading.get_ident()
        for index, vring in self._enabled():
            self.ring_watch.add(self._memory, vring)
            assert vring.call is not None
            self._host.call_events.watch(vring.call.fd, functools.partial(self._called, vring.call))
            self._host.listener.watch(
                self._errors[index].fd, functools.partial(self._report, index, DriverError("given up"))
            )
        self.on_rings([vring.used + 2 for _, vring in self._enabled()])
        self._running = True
        self._forget_inflight()
        if self._connection is not None:
            try:
                self._begin(self._connection)
            except PeerError as error:
                self._lost(error)
        self.ring_watch.start()

    def _enabled(self) -> Iterable[tuple[int, Vring]]:
        return [(index, vring) for index, vring in enumerate(self._vrings) if vring.enabled]

    def _called(self, call: EventFd) -> None:
        """The back-end has written the call event: the halted CPU's thread hears of it, or the listener's."""
        costs = self._costs if threading.get_ident() == self._owner else self._listener_costs
        costs.interrupts += 1
        costs.handoffs += 1
        self._tell(call)

    def _tell(self, call: EventFd) -> None:
        """Any thread: an interrupt for the guest, who may then look at what the back-end has written."""
        self.on_call()
        call.signal()

    def _begin(self, connection: Connection) -> None:
        """Everything that a back-end must know before it serves the rings."""
        assert self._memory is not None
        if self._kind.mtu:
            connection.set_mtu(self._kind.mtu)
        connection.set_features(self._accepted | connection.features & F_PROTOCOL_FEATURES)
        connection.set_status(NEGOTIATED)
        if not self._memory_sent:
            connection.set_memory(self._memory)
            self._memory_sent = True
        if connection.protocol & PROTOCOL_F_INFLIGHT_SHMFD:
            if self._area is None:
                self._area = connection.get_inflight(self.queues, self._queue_size)
            connection.set_inflight(self._area)
        for index, vring in self._enabled():
            assert vring.kick is not None
            assert vring.call is not None
            connection.set_error_event(index, self._errors[index].fd)
            connection.start_vring(
                index,
                vring.num,
                vring.desc,
                vring.avail,
                vring.used,
                vring.base,
                kick=vring.kick.fd,
                call=vring.call.fd,
            )
        connection.set_status(NEGOTIATED | DRIVER_OK)

    def stop(self) -> dict[int, int]:
        """See `DataPlane`. What a lost back-end had taken is not answered."""
        if not self._running:
            return {}
        self._running = False
        self.ring_watch.stop()
        bases = {}
        for index, vring in self._enabled():
            bases[index] = self._stop_vring(index, vring)
            assert vring.call is not None
            self._host.call_events.unwatch(vring.call.fd)
            self._host.listener.unwatch(self._errors[index].fd)
        if self._connection is not None:
            try:
                self._connection.set_status(0)
            except PeerError as error:
                self._lost(error)
        self.on_rings(())
        return bases

    def _stop_vring(self, index: int, vring: Vring) -> int:
        if self._connection is not None:
            try:
                return self._connection.stop_vring(index)
            except PeerError as error:
                self._lost(error)
        return self._used_idx(vring)

    def _forget_inflight(self) -> None:
        """A ring that is started anew has nothing in flight."""
        if self._area is not None:
            self._area.close()
            self._area = None

    # ---- configuration -----------------------------------------------------------------------------

    def config(self, offset: int, length: int) -> bytes:
        """See `DataPlane`."""
        return self._config[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """See `DataPlane`. What the back-end will not take is not changed."""
        connection = self._connection
        if connection is None or not connection.protocol & PROTOCOL_F_CONFIG or not self._kind.config_size:
            return
        if offset + len(data) > self._kind.config_size:
            return
        try:
            connection.set_config(offset, data)
            self._config = self._read_config(connection)
        except PeerError as error:
            self._lost(error)

    def _config_changed(self) -> None:
        """The back-end says so. vCPU thread."""
        if self._connection is None:
            return
        try:
            self._config = self._read_config(self._connection)
        except PeerError as error:
            self._lost(error)
            return
        self.on_config()

    # ---- costs, end --------------------------------------------------------------------------------

    def costs(self) -> Costs:
        """See `DataPlane`: the VMM's share, and the back-end's where it tells.

        The answer to a question says that the back-end has noted all that it did before.
        """
        total = self._costs.total(self._listener_costs)
        total.syscalls += self.ring_watch.kicks
        if self._spent_there is None:
            return total
        if self._connection is not None:
            try:
                self._connection.get_features()
            except PeerError as error:
                self._lost(error)
        return total.total(self._spent_there().minus(self._spent_before))

    def close(self) -> None:
        """End the connection; after the device has stopped."""
        self._reconnector.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._dismiss(connection)
        self._forget_inflight()
        for event in self._errors:
            event.close()


def _reason(error: OSError | PeerError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
