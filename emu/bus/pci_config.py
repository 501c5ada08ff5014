"""The 256 bytes of a PCI function's configuration space, and what the guest may write there.

Source: PCI Local Bus Specification 3.0, chapter 6. Every byte has two masks: bits the guest may set at
will, and bits it clears by writing ones; all others keep what the device put there.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu.errors import MapError

CONFIG_SIZE = 256

# Offsets of the type 0 header (PCI 3.0, figure 6-1).
VENDOR_ID, DEVICE_ID, COMMAND, STATUS = 0x00, 0x02, 0x04, 0x06
REVISION_ID, CLASS_CODE = 0x08, 0x09
CACHE_LINE_SIZE, LATENCY_TIMER, HEADER_TYPE, BIST = 0x0C, 0x0D, 0x0E, 0x0F
BAR0, BARS = 0x10, 6
SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID = 0x2C, 0x2E
EXPANSION_ROM, ROM_ENABLE = 0x30, 0x1
CAPABILITIES_POINTER = 0x34
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D
FIRST_CAPABILITY = 0x40

COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 0x0001, 0x0002, 0x0004
COMMAND_SERR, COMMAND_INTX_DISABLE = 0x0100, 0x0400
COMMAND_RW = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE
STATUS_INTERRUPT, STATUS_CAPABILITIES = 0x0008, 0x0010
STATUS_W1C = 0xF900  # parity, SERR and abort reports
HEADER_MULTIFUNCTION = 0x80

CapabilityHook = Callable[[int, int], None]
"""Called with (offset from the watched bytes' first, width) of a guest access; may be negative."""


class PciIdentity(NamedTuple):
    """Who a function says it is. `class_code` is 24 bits: base class, sub-class, interface."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0


class _Hooks(NamedTuple):
    """A range of bytes and who wants to know of accesses to them."""

    start: int
    end: int
    before_read: CapabilityHook | None
    after_write: CapabilityHook | None


class ConfigSpace:
    """Bytes with masks. `get` and `put` are the device's side, `read` and `write` the guest's."""

    def __init__(self, identity: PciIdentity) -> None:
        self.data = bytearray(CONFIG_SIZE)
        self.write_mask = bytearray(CONFIG_SIZE)
        self.w1c_mask = bytearray(CONFIG_SIZE)
        self._hooks: list[_Hooks] = []
        self._next_free = FIRST_CAPABILITY
        self._last_link = CAPABILITIES_POINTER
        self.put(VENDOR_ID, 2, identity.vendor)
        self.put(DEVICE_ID, 2, identity.device)
        self.put(REVISION_ID, 1, identity.revision)
        self.put(CLASS_CODE, 3, identity.class_code)
        self.put(SUBSYSTEM_VENDOR_ID, 2, identity.subsystem_vendor)
        self.put(SUBSYSTEM_ID, 2, identity.subsystem)
        self.set_masks(COMMAND, 2, rw=COMMAND_RW)
        self.set_masks(STATUS, 2, w1c=STATUS_W1C)
        self.set_masks(CACHE_LINE_SIZE, 1, rw=0xFF)
        self.set_masks(INTERRUPT_LINE, 1, rw=0xFF)

    def get(self, offset: int, width: int) -> int:
        """The register as the device left it; no hook runs."""
        return int.from_bytes(self.data[offset : offset + width], "little")

    def put(self, offset: int, width: int, value: int) -> None:
        """Set a register whatever its masks say; no hook runs."""
        self.data[offset : offset + width] = value.to_bytes(width, "little")

    def set_masks(self, offset: int, width: int, *, rw: int = 0, w1c: int = 0) -> None:
        """Declare which bits the guest may write, and which it clears by writing ones."""
        self.write_mask[offset : offset + width] = rw.to_bytes(width, "little")
        self.w1c_mask[offset : offset + width] = w1c.to_bytes(width, "little")

    def add_capability(
        self,
        capability: int,
        body: bytes,
        write_mask: bytes = b"",
        *,
        before_read: CapabilityHook | None = None,
        after_write: CapabilityHook | None = None,
    ) -> int:
        """Append a capability to the list and return its offset.

        `body` is what follows the identifier and next pointer; `write_mask` covers `body` (shorter: the
        rest is read-only). Hooks get offsets from the capability's first byte. Raises MapError when
        the space is used up.
        """
        start = self._next_free
        end = start + 2 + len(body)
        if end > CONFIG_SIZE:
            raise MapError(
                f"PCI capability {capability:#04x} of {2 + len(body)} bytes at {start:#04x}: no room"
            )
        self.data[start] = capability
        self.data[start + 2 : end] = body
        self.write_mask[start + 2 : start + 2 + len(write_mask)] = write_mask
        self.data[self._last_link] = start
        self._last_link = start + 1
        self._next_free = (end + 3) & ~3
        self.put(STATUS, 2, self.get(STATUS, 2) | STATUS_CAPABILITIES)
        if before_read is not None or after_write is not None:
            self.watch(start, end, before_read=before_read, after_write=after_write)
        return start

    def watch(
        self,
        start: int,
        end: int,
        *,
        before_read: CapabilityHook | None = None,
        after_write: CapabilityHook | None = None,
    ) -> None:
        """Call hooks for guest accesses that touch bytes [start, end)."""
        self._hooks.append(_Hooks(start, end, before_read, after_write))

    def load(self, saved: bytes, power_on: bytes) -> None:
        """Take the bits that software or its writes may have changed from `saved`; no hook runs."""
        for at in range(CONFIG_SIZE):
            mask = self.write_mask[at] | self.w1c_mask[at]
            self.data[at] = (power_on[at] & ~mask) | (saved[at] & mask)

    def read(self, offset: int, width: int) -> int:
        """A guest's read of `width` bytes; bytes beyond the space read as zero."""
        for hooks in self._hooks:
            if hooks.before_read is not None and offset < hooks.end and offset + width > hooks.start:
                hooks.before_read(offset - hooks.start, width)
        return int.from_bytes(self.data[offset : offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """A guest's write of the low `width` bytes of `value`, through the masks."""
        data, write_mask, w1c_mask = self.data, self.write_mask, self.w1c_mask
        for at in range(offset, min(offset + width, CONFIG_SIZE)):
            byte = value & 0xFF
            value >>= 8
            mask = write_mask[at]
            data[at] = ((data[at] & ~mask) | (byte & mask)) & ~(byte & w1c_mask[at])
        for hooks in self._hooks:
            if hooks.after_write is not None and offset < hooks.end and offset + width > hooks.start:
                hooks.after_write(offset - hooks.start, width)
