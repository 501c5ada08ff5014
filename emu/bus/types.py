"""The small contracts between chips and the board. All are given at construction; none is a global."""

import enum
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from emu.errors import EmuError


class Fault(enum.Enum):
    """Why an access does not fit the region it reached. The bus decides the answer."""

    NO_REGISTER = "no register there"
    WIDTH = "wrong width"
    READ_ONLY = "read-only register written"
    WRITE_ONLY = "write-only register read"
    UNSUPPORTED = "not supported by this device"


class AccessError(EmuError):
    """A guest access does not fit; never ends the emulator (all ones, counted, logged once)."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Region(Protocol):
    """One window's worth of registers. Called on the vCPU thread only."""

    @property
    def size(self) -> int:
        """Bytes (or ports) the region decodes."""

    def read(self, offset: int, width: int, /) -> int:
        """Read `width` (1, 2 or 4) bytes at `offset`. Raises AccessError."""

    def write(self, offset: int, width: int, value: int, /) -> None:
        """Write the low `width` bytes of `value` at `offset`. Raises AccessError."""

    def register_name(self, offset: int, is_write: bool, /) -> str:
        """The datasheet's name of the register at `offset`, for the ledger."""


@runtime_checkable
class DirectRegion(Region, Protocol):
    """A region with registers that are worth a function of their own: the port bus calls it, not `read`."""

    def direct(
        self, offset: int, width: int, /
    ) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
        """What reads and what writes one register by accesses of `width`, with the arguments of both."""


class IrqLine(Protocol):
    """One source's wire to an interrupt pin; sources are ORed at the pin."""

    def set(self, level: bool, /) -> None:
        """Drive the wire; the pin sees the edge."""

    def restore(self, level: bool, /) -> None:
        """Take a saved level without making an edge."""


class MsiTarget(Protocol):
    """Where message-signalled interrupts go. May be called from any thread."""

    def send(self, address: int, data: int, /) -> None:
        """Deliver one message: a 32-bit write of `data` to `address`."""


class InterruptController(Protocol):
    """What the CPU asks of the board's interrupt controllers, on the vCPU thread."""

    def acknowledge(self) -> int:
        """The INTA cycle: return the vector to deliver, or -1 where nothing is deliverable."""

    def pending(self) -> bool:
        """True where `acknowledge` would return a vector. Changes nothing."""


class CpuPins(Protocol):
    """What the board's chips may do to the CPU."""

    def poke(self) -> None:
        """On the vCPU thread: run an INTA cycle as soon as the guest allows interrupts."""

    def poke_from_outside(self) -> None:
        """The same from any other thread; also wakes a halted CPU."""

    def nmi(self) -> None:
        """Raise NMI (edge); vCPU thread."""

    def set_a20(self, enabled: bool, /) -> None:
        """Open or close address line 20; vCPU thread."""

    def reset(self) -> None:
        """Reset or power-cycle request; what follows is the board's policy."""
