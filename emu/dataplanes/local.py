"""A data plane inside of this process: everything but the thread is the same for each placement."""

from emu.bus.costs import Costs
from emu.bus.memory import GuestMemory
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.types import Placement
from emu.dataplanes.vrings import Vring, VringTable
from emu.devices.virtio.spec import F_RING_EVENT_IDX, F_RING_INDIRECT_DESC
from emu.devices.virtio.split_queue import SplitQueue
from emu.devices.virtio.types import Service
from emu.errors import EmuError
from emu.kernel.membarrier import private_barrier


class LocalPlane(VringTable):
    """A `DataPlane` that serves `service` where `placement` says. Called on the vCPU thread.

    Raises ConfigError where the placement needs a host call that is not there.
    """

    def __init__(self, service: Service, placement: Placement) -> None:
        super().__init__(service.queues)
        self.service, self._placement = service, placement
        self.name, self.ioeventfd, self.irqfd = placement.name, placement.ioeventfd, placement.irqfd
        self.device_type = service.device_type
        self._barrier = private_barrier() if placement.barrier else None
        self._memory: GuestMemory | None = None
        self._running: list[QueueRunner] = []

    @property
    def features(self) -> int:
        """What the service offers."""
        return self.service.features

    def set_memory(self, memory: GuestMemory) -> None:
        """See `DataPlane`."""
        self._memory = memory

    def start(self) -> None:
        """See `DataPlane`."""
        if self._running:
            return
        self.service.set_features(self._accepted)
        self._running = [self._runner(i, vring) for i, vring in enumerate(self._vrings) if vring.enabled]
        self._placement.start(self._running)

    def _runner(self, index: int, vring: Vring) -> QueueRunner:
        if self._memory is None or vring.kick is None or vring.call is None:
            raise EmuError(f"queue {index} was enabled without memory, kick or call")
        queue = SplitQueue(
            self._memory,
            vring.desc,
            vring.avail,
            vring.used,
            vring.num,
            event_idx=bool(self._accepted & F_RING_EVENT_IDX),
            indirect=bool(self._accepted & F_RING_INDIRECT_DESC),
            base=vring.base,
        )
        return QueueRunner(
            queue,
            self.service.drain(index, queue),
            vring.kick,
            vring.call,
            self._placement.costs,
            barrier=self._barrier,
            index=index,
            report=self._report,
            sources=[fd for fd, wanted in self.service.sources if wanted == index],
        )

    def stop(self) -> dict[int, int]:
        """See `DataPlane`."""
        if not self._running:
            return {}
        self._placement.stop()
        bases = {runner.index: runner.queue.last_avail for runner in self._running}
        self._running = []
        return bases

    def config(self, offset: int, length: int) -> bytes:
        """See `DataPlane`."""
        return self.service.config(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        """See `DataPlane`."""
        self.service.write_config(offset, data)

    def costs(self) -> Costs:
        """See `DataPlane`."""
        return self._placement.costs.total(self.service.costs)
