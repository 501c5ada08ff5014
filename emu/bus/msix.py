"""MSI-X: the vector table, the pending bits and the capability.

Source: PCI Local Bus Specification 3.0, 6.8.2 and 6.8.3. The registers belong to the vCPU thread; `notify`
and `route` may be called from any.
"""

import struct
import threading
from collections.abc import Callable, Mapping

from emu.bus.pci_bar import BarWindow
from emu.bus.pci_function import PciFunction
from emu.bus.saved_state import check_kind
from emu.bus.types import AccessError, Fault, MsiTarget
from emu.errors import ConfigError, MapError

KIND, VERSION = "msix", 1
CAP_MSIX = 0x11
MESSAGE_CONTROL = 2  # offset inside of the capability
CONTROL_MASK_ALL, CONTROL_ENABLE = 0x4000, 0x8000
MAX_VECTORS = 2048
NO_VECTOR = 0xFFFF
ENTRY = 16  # bytes
ADDRESS_LOW, ADDRESS_HIGH, DATA, VECTOR_CONTROL = range(4)  # dwords of an entry
MASKED = 1
_NAMES = ("address", "address high", "data", "control")
_DWORD = 0xFFFF_FFFF

Route = tuple[int, int]
"""(address, data) of a message."""


class MsixTable:
    """The MSI-X of one function; give it its bus with `attach`.

    `on_change(vector)` is called on the vCPU thread whenever `route(vector)` may have a new answer: whoever
    delivers the vector by an irqfd follows it. The lock guards table and pending bits; nothing is called out
    while it is held. Raises MapError for an impossible number of vectors.
    """

    def __init__(self, vectors: int, target: MsiTarget) -> None:
        if not 1 <= vectors <= MAX_VECTORS:
            raise MapError(f"MSI-X: {vectors} vectors; 1 to {MAX_VECTORS} are possible")
        self.vectors = vectors
        self.on_change: Callable[[int], None] | None = None
        self.table = MsixTableRegion(self)
        self.pending = MsixPendingRegion(self)
        self._target = target
        self._words = [0, 0, 0, MASKED] * vectors
        self._pending = 0  # bit n: vector n
        self._enabled = False
        self._mask_all = False
        self._bus_master = False
        self._function: PciFunction | None = None
        self._capability = 0
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """The driver uses MSI-X: the function must not use its interrupt pin."""
        return self._enabled

    def windows(self, name: str, *, table_offset: int = 0, pending_offset: int = 0x800) -> list[BarWindow]:
        """Table and pending bits as windows of a BAR; the same offsets go to `attach`."""
        return [
            BarWindow(table_offset, self.table, f"{name} msix"),
            BarWindow(pending_offset, self.pending, f"{name} msix pending"),
        ]

    def attach(
        self, function: PciFunction, bar: int, *, table_offset: int = 0, pending_offset: int = 0x800
    ) -> int:
        """Add the capability that points at `bar`; return its offset. Raises MapError for an overlap."""
        if (
            table_offset < pending_offset + self.pending.size
            and pending_offset < table_offset + self.table.size
        ):
            raise MapError(f"MSI-X of {function.name}: {self.vectors} vectors overlap the pending bits")
        body = struct.pack("<HII", self.vectors - 1, table_offset | bar, pending_offset | bar)
        mask = struct.pack("<H", CONTROL_ENABLE | CONTROL_MASK_ALL)
        self._function = function
        self._capability = function.config.add_capability(
            CAP_MSIX, body, mask, after_write=lambda _offset, _width: self._follow()
        )
        function.on_command.append(self._follow)
        function.on_reset.append(self.reset)
        return self._capability

    def reset(self) -> None:
        """Every vector masked, nothing pending, as the function's own reset leaves it."""
        with self._lock:
            self._words[:] = [0, 0, 0, MASKED] * self.vectors
            self._pending = 0
        self._follow()
        self._changed(range(self.vectors))

    def save(self) -> dict[str, object]:
        """Table and pending bits as plain values; enable and mask are in configuration space."""
        with self._lock:
            table = struct.pack(f"<{len(self._words)}I", *self._words)
            pending = self._pending.to_bytes(self.pending.size, "little")
        return {"kind": KIND, "version": VERSION, "table": table, "pending": pending}

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state, after the function took its own; routes are announced. Raises ConfigError."""
        check_kind(KIND, VERSION, saved)
        table, pending = saved.get("table"), saved.get("pending")
        if not isinstance(table, bytes) or len(table) != self.table.size or not isinstance(pending, bytes):
            raise ConfigError(f"saved {KIND}: table or pending bits are damaged")
        words = list(struct.unpack(f"<{4 * self.vectors}I", table))
        words[ADDRESS_LOW::4] = [word & ~3 for word in words[ADDRESS_LOW::4]]
        words[VECTOR_CONTROL::4] = [word & MASKED for word in words[VECTOR_CONTROL::4]]
        with self._lock:
            self._words[:] = words
            self._pending = int.from_bytes(pending, "little") & ((1 << self.vectors) - 1)
            due = self._due(range(self.vectors))
        self._send(due)
        self._changed(range(self.vectors))

    # ---- delivery, from any thread -------------------------------------------------------------------

    def notify(self, vector: int) -> None:
        """Send the vector's message, or remember it while it is masked; nothing while MSI-X is off."""
        if not 0 <= vector < self.vectors:
            return
        with self._lock:
            if not self._enabled:
                return
            if self._mask_all or self._words[4 * vector + VECTOR_CONTROL] & MASKED:
                self._pending |= 1 << vector
                return
            if not self._bus_master:  # a message is a write to memory, which needs the bus
                return
            address, data = self._message(vector)
        self._target.send(address, data)

    def route(self, vector: int) -> Route | None:
        """The message that the vector sends now, or None where `notify` would not send."""
        if not 0 <= vector < self.vectors:
            return None
        with self._lock:
            if not self._enabled or self._mask_all or not self._bus_master:
                return None
            if self._words[4 * vector + VECTOR_CONTROL] & MASKED:
                return None
            return self._message(vector)

    def _message(self, vector: int) -> Route:
        words, at = self._words, 4 * vector
        return words[at + ADDRESS_HIGH] << 32 | words[at + ADDRESS_LOW], words[at + DATA]

    # ---- registers, on the vCPU thread ---------------------------------------------------------------

    def _follow(self) -> None:
        """Take over what configuration space says."""
        function = self._function
        if function is None:
            return
        control = function.config.get(self._capability + MESSAGE_CONTROL, 2)
        enabled, mask_all = bool(control & CONTROL_ENABLE), bool(control & CONTROL_MASK_ALL)
        now = (enabled, mask_all, function.bus_master)
        if now == (self._enabled, self._mask_all, self._bus_master):
            return
        with self._lock:
            self._enabled, self._mask_all, self._bus_master = now
            due = self._due(range(self.vectors))
        self._send(due)
        self._changed(range(self.vectors))

    def read_word(self, index: int) -> int:
        """Dword `index` of the table."""
        return self._words[index]

    def write_word(self, index: int, value: int) -> None:
        """Write dword `index` of the table; what was pending goes out at unmasking."""
        vector, field = index >> 2, index & 3
        if field == VECTOR_CONTROL:
            value &= MASKED
        elif field == ADDRESS_LOW:
            value &= ~3
        with self._lock:
            if self._words[index] == value:
                return
            self._words[index] = value
            due = self._due(range(vector, vector + 1))
        self._send(due)
        self._changed(range(vector, vector + 1))

    def pending_word(self, index: int) -> int:
        """Pending bits of vectors 32 * index and on."""
        return self._pending >> (32 * index) & _DWORD

    def _due(self, vectors: range) -> list[Route]:
        """Take the messages of pending vectors that may go now; the lock is held."""
        if not self._pending or not self._enabled or self._mask_all or not self._bus_master:
            return []
        found = []
        for vector in vectors:
            if self._pending >> vector & 1 and not self._words[4 * vector + VECTOR_CONTROL] & MASKED:
                self._pending &= ~(1 << vector)
                found.append(self._message(vector))
        return found

    def _send(self, messages: list[Route]) -> None:
        for address, data in messages:
            self._target.send(address, data)

    def _changed(self, vectors: range) -> None:
        if self.on_change is not None:
            for vector in vectors:
                self.on_change(vector)


def _check_width(offset: int, width: int) -> None:
    if width not in (4, 8) or offset & (width - 1):
        raise AccessError(Fault.WIDTH)


class MsixTableRegion:
    """The vector table as a `Region`: aligned dwords, and qwords as two of them."""

    def __init__(self, msix: MsixTable) -> None:
        self._msix = msix
        self.size = ENTRY * msix.vectors

    def read(self, offset: int, width: int) -> int:
        """Read a dword or a qword."""
        _check_width(offset, width)
        low = self._msix.read_word(offset >> 2)
        return low if width == 4 else self._msix.read_word((offset >> 2) + 1) << 32 | low

    def write(self, offset: int, width: int, value: int) -> None:
        """Write a dword or a qword."""
        _check_width(offset, width)
        self._msix.write_word(offset >> 2, value & _DWORD)
        if width == 8:
            self._msix.write_word((offset >> 2) + 1, value >> 32 & _DWORD)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """Vector and field."""
        return f"vector {offset // ENTRY} {_NAMES[offset >> 2 & 3]}"


class MsixPendingRegion:
    """The pending bit array as a `Region`: read-only."""

    def __init__(self, msix: MsixTable) -> None:
        self._msix = msix
        self.size = 8 * ((msix.vectors + 63) // 64)

    def read(self, offset: int, width: int) -> int:
        """Read 32 or 64 vectors' bits."""
        _check_width(offset, width)
        low = self._msix.pending_word(offset >> 2)
        return low if width == 4 else self._msix.pending_word((offset >> 2) + 1) << 32 | low

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Software must not write here."""
        raise AccessError(Fault.READ_ONLY)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The first vector of the dword."""
        return f"pending {offset * 8}"
