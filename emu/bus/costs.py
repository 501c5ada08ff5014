"""What a request costs beyond its exits; each role adds its own share where it spends it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Costs:
    """Counters of one role (one thread's own object, so that no add is lost).

    `handoffs`: wake-ups of another thread or process; `bytes_copied`: by host software;
    `bytes_dma`: by hardware; `syscalls`: host system calls on the data path.
    """

    requests: int = 0
    interrupts: int = 0
    handoffs: int = 0
    bytes_copied: int = 0
    bytes_dma: int = 0
    syscalls: int = 0

    def total(self, other: "Costs") -> "Costs":
        """The sum of two roles."""
        return Costs(
            self.requests + other.requests,
            self.interrupts + other.interrupts,
            self.handoffs + other.handoffs,
            self.bytes_copied + other.bytes_copied,
            self.bytes_dma + other.bytes_dma,
            self.syscalls + other.syscalls,
        )

    def minus(self, earlier: "Costs") -> "Costs":
        """What was spent since `earlier`."""
        return Costs(
            self.requests - earlier.requests,
            self.interrupts - earlier.interrupts,
            self.handoffs - earlier.handoffs,
            self.bytes_copied - earlier.bytes_copied,
            self.bytes_dma - earlier.bytes_dma,
            self.syscalls - earlier.syscalls,
        )
