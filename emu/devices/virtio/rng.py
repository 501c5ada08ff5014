"""virtio-rng: one queue of buffers to fill. Source: VIRTIO 1.2, section 5.4."""

import os
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.clock import Clock
from emu.devices.virtio.spec import F_RING_EVENT_IDX, F_RING_INDIRECT_DESC, TYPE_RNG
from emu.devices.virtio.split_queue import SplitQueue
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError, DriverError

MAX_REQUEST: Final = 1 << 16
"""Bytes put into one buffer at most: the guest stands still meanwhile, and fewer are allowed."""
RETRY_NS: Final = 10_000_000
"""How often a source that had nothing is asked again."""
UNLIMITED: Final = (1 << 63) - 1

Source = Callable[[int], bytes]
"""Up to so many random bytes, at once; none where there are none yet."""


class VirtioRng:
    """Entropy; a `Service`. At most `max_bytes` in each `period_ms` of the machine's time.

    `kick(queue)` is called, on the clock's thread, when a queue that waited should be served. Raises
    ConfigError for a rate that cannot be.
    """

    device_type = TYPE_RNG
    sources: tuple[tuple[int, int], ...] = ()
    queues = 1

    def __init__(
        self,
        source: Source,
        clock: Clock,
        *,
        max_bytes: int = UNLIMITED,
        period_ms: int = 65536,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        if max_bytes < 1 or period_ms < 1:
            raise ConfigError(f"max-bytes={max_bytes},period={period_ms}: both are at least 1")
        self.costs = Costs()
        self.features = ring_features
        self.kick: Callable[[int], None] = _nobody
        self._source, self._clock = source, clock
        self._max_bytes, self._period_ns = max_bytes, period_ms * 1_000_000
        self._left = max_bytes
        self._period_ends = 0
        self._waiting = False

    def set_features(self, features: int) -> None:
        """There are none beyond the ring's."""

    def config(self, _offset: int, _length: int) -> bytes:
        """There is no configuration."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """There is no configuration."""

    def drain(self, _index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""

        def drain(limit: int) -> int:
            waiting = min(queue.waiting(), limit)
            for served in range(waiting):
                if not self._answer(queue):
                    return served
            return waiting

        return drain

    def _answer(self, queue: SplitQueue) -> bool:
        """Fill one buffer; False where nothing may or can be given now."""
        chain = queue.pop()
        if chain is None or not chain.writable:
            raise DriverError("virtio-rng request without a writable buffer")
        wanted = min(chain.writable_bytes, MAX_REQUEST, self._quota())
        data = self._source(wanted) if wanted else b""
        if not data:
            queue.put_back()
            self._wait(self._period_ends if not wanted else self._clock.now_ns() + RETRY_NS)
            return False
        self._left -= len(data)
        self.costs.bytes_copied += len(data)
        queue.push(chain, chain.write(data))
        return True

    def _quota(self) -> int:
        """Bytes still to be given in this period, which begins with the first request after the last one."""
        now = self._clock.now_ns()
        if now >= self._period_ends:
            self._period_ends, self._left = now + self._period_ns, self._max_bytes
        return self._left

    def _wait(self, until_ns: int) -> None:
        if not self._waiting:
            self._waiting = True
            self._clock.call_at(until_ns, self._again)

    def _again(self) -> None:
        self._waiting = False
        self.kick(0)


def _nobody(_queue: int) -> None:
    """No queue is served."""


def host_random(length: int) -> bytes:
    """The host kernel's generator, which never blocks once the host is up. A `Source`."""
    try:
        return os.getrandom(length, os.GRND_NONBLOCK)
    except BlockingIOError:
        return b""


class RandomFile:
    """A `Source` that reads a character device or a pipe, never waiting. Raises ConfigError."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"-object rng-random: {path}: {error.strerror}") from None

    def __call__(self, length: int) -> bytes:
        """What is there now; nothing at the end or after an error of the host's."""
        try:
            return os.read(self._fd, length)
        except OSError:
            return b""

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
