"""virtio-balloon: pages that the guest lends to the host. Source: VIRTIO 1.2, section 5.5.

An inflated or reported page becomes a hole in the memfd: the host has its memory back, and the guest, or
anyone else who looks, reads zeros and gets a fresh page by writing. Deflating therefore takes no work.
"""

import mmap
import struct
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.bus.memory import GuestMemory
from emu.devices.virtio.spec import (
    BALLOON_F_DEFLATE_ON_OOM,
    BALLOON_F_REPORTING,
    BALLOON_F_STATS_VQ,
    BALLOON_PAGE,
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    TYPE_BALLOON,
)
from emu.devices.virtio.split_queue import Chain, SplitQueue, each_chain
from emu.devices.virtio.types import Drain
from emu.errors import DriverError

CONFIG: Final = struct.Struct("<II")  # num_pages, actual
ACTUAL_AT: Final = 4
STATISTIC: Final = struct.Struct("<HQ")  # tag, value
STATISTICS: Final = (
    "swap-in",
    "swap-out",
    "major-faults",
    "minor-faults",
    "free-memory",
    "total-memory",
    "available-memory",
    "disk-caches",
    "hugetlb-allocations",
    "hugetlb-failures",
)
"""Names by tag. Source: 5.5.6.4; spelled as QEMU's `guest-stats`."""
MAX_PAGES: Final = 1 << 15
"""Page numbers in one request. Ours; Linux gives 256. It bounds how long the guest stands still."""
MAX_STATISTICS_BYTES: Final = 1 << 12


class VirtioBalloon:
    """A balloon in `memory`; a `Service`. Served on the vCPU thread.

    `kick(queue)` asks for a queue that waited to be served; `config_changed()` is called when `target` moved.
    `statistics` is what the guest told last, by name.
    """

    device_type = TYPE_BALLOON
    sources: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        memory: GuestMemory,
        *,
        deflate_on_oom: bool = False,
        reporting: bool = False,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        self._memory = memory
        self.costs = Costs()
        self.features = ring_features | BALLOON_F_STATS_VQ
        if deflate_on_oom:
            self.features |= BALLOON_F_DEFLATE_ON_OOM
        if reporting:
            self.features |= BALLOON_F_REPORTING
        self.queues = 4 if reporting else 3
        self.kick: Callable[[int], None] = _nobody
        self.config_changed: Callable[[], None] = _nothing
        self.statistics: dict[str, int] = {}
        self._roles = self._roles_for(self.features)
        self._stats_wanted = self._stats_seen = False
        self._target = self._actual = 0

    # ---- the host's side ---------------------------------------------------------------------------

    def set_target(self, balloon_bytes: int) -> None:
        """Ask the guest for so many bytes, rounded down to pages; it may take its time, or not do it."""
        self._target = min(balloon_bytes, self._memory.size) // BALLOON_PAGE
        self.config_changed()

    @property
    def actual(self) -> int:
        """Bytes that the guest says are in the balloon."""
        return self._actual * BALLOON_PAGE

    def request_statistics(self) -> None:
        """Ask for fresh `statistics`; they come when the guest gets to it."""
        self._stats_wanted = True
        if "stats" in self._roles:
            self.kick(self._roles.index("stats"))

    # ---- features and configuration ----------------------------------------------------------------

    def set_features(self, features: int) -> None:
        """The queues' numbers depend on what was accepted. Source: 5.5.2."""
        self._roles = self._roles_for(features)

    @staticmethod
    def _roles_for(features: int) -> list[str]:
        roles = ["inflate", "deflate"]
        if features & BALLOON_F_STATS_VQ:
            roles.append("stats")
        if features & BALLOON_F_REPORTING:
            roles.append("reporting")
        return roles

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`."""
        return CONFIG.pack(self._target, self._actual)[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """Only `actual` can be written."""
        if ACTUAL_AT <= offset < CONFIG.size:
            whole = bytearray(self._actual.to_bytes(4, "little"))
            at = offset - ACTUAL_AT
            whole[at : at + len(data)] = data
            self._actual = int.from_bytes(whole[:4], "little")

    def reset(self) -> None:
        """The device was reset: the guest has all its pages again."""
        self._actual = 0
        self._stats_seen = False
        self.statistics = {}

    # ---- queues ------------------------------------------------------------------------------------

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        role = self._roles[index] if index < len(self._roles) else "none"
        if role == "stats":
            self._stats_seen = False
            return lambda _limit: self._drain_statistics(queue)
        answers: dict[str, Callable[[Chain], int]] = {
            "inflate": self._inflate,
            "deflate": self._deflate,
            "reporting": self._report,
            "none": _ignore,
        }
        return each_chain(queue, answers[role])

    def _pages(self, chain: Chain) -> list[int]:
        """The page numbers of a request. Raises DriverError."""
        length = chain.readable_bytes
        if length % 4 or not 0 < length // 4 <= MAX_PAGES:
            raise DriverError(f"balloon request of {length} bytes: not 1 to {MAX_PAGES} page numbers of 4")
        return list(struct.unpack(f"<{length // 4}I", chain.read()))

    def _inflate(self, chain: Chain) -> int:
        """Drop the pages, neighbours at once. A page that is not in RAM is left alone."""
        pages = sorted(set(self._pages(chain)))
        start = end = pages[0]
        for page in pages:
            if page != end:
                self._drop(start, end)
                start = page
            end = page + 1
        self._drop(start, end)
        return 0

    def _drop(self, start: int, end: int) -> None:
        """Make a hole of the pages [start, end), as far as they are RAM."""
        for piece in self._memory.ranges:
            low = max(start * BALLOON_PAGE, piece.gpa)
            high = min(end * BALLOON_PAGE, piece.gpa + piece.size)
            if low < high:
                self._punch(low, high - low, low - piece.gpa + piece.offset)

    def _punch(self, gpa: int, length: int, offset: int) -> None:
        self.costs.syscalls += 1
        self._memory.map.madvise(mmap.MADV_REMOVE, offset, length)
        self._memory.written(gpa, length)  # code that lay there is zeros now

    def _deflate(self, chain: Chain) -> int:
        """A hole is filled by using it."""
        self._pages(chain)
        return 0

    def _report(self, chain: Chain) -> int:
        """Free pages, whose contents do not matter until they are used again. Source: 5.5.6.7."""
        for gpa, buffer in zip(chain.writable_at, chain.writable, strict=True):
            start, end = -(-gpa // BALLOON_PAGE), (gpa + len(buffer)) // BALLOON_PAGE
            if start < end:
                self._drop(start, end)
        return 0

    def _drain_statistics(self, queue: SplitQueue) -> int:
        """Read the buffer that lies there; give it back when fresh figures are wanted. Source: 5.5.6.3."""
        served = 0
        chain = queue.pop()
        if chain is not None and self._stats_seen and self._stats_wanted:
            queue.push(chain, 0)
            self._stats_seen = self._stats_wanted = False
            served, chain = 1, queue.pop()
        if chain is not None:
            if not self._stats_seen:
                self._stats_seen, self._stats_wanted = True, False
                self._take_statistics(chain.read(MAX_STATISTICS_BYTES))
            queue.put_back()
        return served

    def _take_statistics(self, data: bytes) -> None:
        whole = len(data) // STATISTIC.size * STATISTIC.size
        for tag, value in STATISTIC.iter_unpack(data[:whole]):
            if tag < len(STATISTICS):
                self.statistics[STATISTICS[tag]] = value


def _ignore(_chain: Chain) -> int:
    return 0


def _nobody(_queue: int) -> None:
    """No queue is served."""


def _nothing() -> None:
    """Nobody listens."""
