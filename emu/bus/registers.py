"""Register maps written down as tables, for chips that are mostly registers.

    class Pm1Event(RegisterBlock):
        def _update_sci(self) -> None: ...
        PM1_STS = Reg(0, bits=16, w1c=TMR | WAK, on_write=_update_sci)
        PM1_EN = Reg(2, bits=16, rw=TMR, on_write=_update_sci)

Masks say which bits follow which rule; all other bits keep their reset value. A register may be read and
written in parts, and an access may span several; bytes between registers read as 0.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

from emu.bus.types import AccessError, Fault
from emu.errors import MapError


class Reg:
    """One register, little-endian, `bits` (8, 16 or 32) wide, `offset` bytes from its block's base.

    `rw`: bits that keep what is written; `w1c`: bits that a written one clears. `on_read(block) -> int`
    computes the value, `on_write(block)` follows each write that reached at least one byte. A register with
    neither mask nor `on_write` is read-only: a write to it alone is an access fault.
    """

    __slots__ = ("bits", "index", "name", "offset", "on_read", "on_write", "reset", "rw", "w1c", "writable")

    def __init__(
        self,
        offset: int,
        *,
        bits: int = 8,
        reset: int = 0,
        rw: int = 0,
        w1c: int = 0,
        on_read: Callable[..., int] | None = None,
        on_write: Callable[..., None] | None = None,
    ) -> None:
        if bits not in (8, 16, 32):
            raise MapError(f"register at {offset:#x}: {bits} bits, wanted 8, 16 or 32")
        if (reset | rw | w1c) >> bits or rw & w1c:
            raise MapError(f"register at {offset:#x}: its masks overlap or exceed {bits} bits")
        self.offset, self.bits = offset, bits
        self.reset, self.rw, self.w1c = reset, rw, w1c
        self.on_read, self.on_write = on_read, on_write
        self.writable = bool(rw | w1c) or on_write is not None
        self.name = ""
        self.index = -1  # of its value in the block

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class RegisterBlock:
    """A Region made of the `Reg`s its class declares. `size` may be declared too, where the window is larger.

    `self[REG]` is a register's stored value, without side effects.
    """

    size: int = 0
    registers: ClassVar[tuple[Reg, ...]] = ()
    _whole: ClassVar[dict[int, Reg]] = {}  # by offset << 3 | width: an access of exactly one register
    _bytes: ClassVar[tuple[Reg | None, ...]] = ()  # by offset: the register that byte belongs to

    def __init_subclass__(cls) -> None:
        registers = sorted(
            (value for value in vars(cls).values() if isinstance(value, Reg)), key=lambda reg: reg.offset
        )
        if cls.registers:  # a subclass of a finished block: same map, or none at all
            if registers:
                raise MapError(f"{cls.__name__}: a register block cannot be extended")
            return
        end = max((reg.offset + reg.bits // 8 for reg in registers), default=0)
        cls.size = max(cls.size, end)
        by_byte: list[Reg | None] = [None] * cls.size
        for index, reg in enumerate(registers):
            for at in range(reg.offset, reg.offset + reg.bits // 8):
                taken = by_byte[at]
                if taken is not None:
                    raise MapError(f"{cls.__name__}: {reg.name} overlaps {taken.name} at {at:#x}")
                by_byte[at] = reg
            reg.index = index
        cls.registers = tuple(registers)
        cls._bytes = tuple(by_byte)
        cls._whole = {reg.offset << 3 | reg.bits // 8: reg for reg in registers}

    def __init__(self) -> None:
        self._values = [reg.reset for reg in self.registers]

    def __getitem__(self, reg: Reg) -> int:
        return self._values[reg.index]

    def __setitem__(self, reg: Reg, value: int) -> None:
        self._values[reg.index] = value

    def reset_registers(self) -> None:
        """Every register takes its reset value; no hook is called."""
        self._values = [reg.reset for reg in self.registers]

    def read(self, offset: int, width: int) -> int:
        """Read whole registers or parts of them. Raises AccessError where no byte is a register's."""
        reg = self._whole.get(offset << 3 | width)
        if reg is not None:
            return self._values[reg.index] if reg.on_read is None else reg.on_read(self)
        value = 0
        for reg in self._touched(offset, width):
            part = self._values[reg.index] if reg.on_read is None else reg.on_read(self)
            shift = (reg.offset - offset) * 8
            value |= part << shift if shift >= 0 else part >> -shift
        return value & (1 << width * 8) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """Write whole registers or parts of them. Raises AccessError where no byte is writable."""
        reg = self._whole.get(offset << 3 | width)
        if reg is not None and reg.writable:
            self._store(reg, value, -1)
            return
        writable = [reg for reg in self._touched(offset, width) if reg.writable]
        if not writable:
            raise AccessError(Fault.READ_ONLY)
        mask = (1 << width * 8) - 1
        for reg in writable:
            shift = (offset - reg.offset) * 8
            if shift >= 0:
                self._store(reg, value << shift, mask << shift)
            else:
                self._store(reg, value >> -shift, mask >> -shift)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The declared name, or the offset in hex between registers."""
        reg = self._bytes[offset] if offset < self.size else None
        return f"{offset:#x}" if reg is None else reg.name

    def save_registers(self) -> dict[str, int]:
        """Stored values by name."""
        return {reg.name: self._values[reg.index] for reg in self.registers}

    def load_registers(self, values: Mapping[str, int]) -> None:
        """Take saved values; bits a guest could not have set keep their reset value, unknown names are
        ignored, missing ones mean reset. No hook is called.
        """
        for reg in self.registers:
            free = reg.rw | reg.w1c
            value = values.get(reg.name, reg.reset)
            self._values[reg.index] = value & free | reg.reset & ~free

    def _touched(self, offset: int, width: int) -> list[Reg]:
        """The registers under an access, in order."""
        found: list[Reg] = []
        for reg in self._bytes[offset : offset + width]:
            if reg is not None and (not found or found[-1] is not reg):
                found.append(reg)
        if not found:
            raise AccessError(Fault.NO_REGISTER)
        return found

    def _store(self, reg: Reg, value: int, mask: int) -> None:
        """Write the bits of `value` under `mask` by the register's rules."""
        old = self._values[reg.index]
        kept = old & ~(reg.rw & mask) & ~(value & reg.w1c & mask)
        self._values[reg.index] = kept | value & reg.rw & mask
        if reg.on_write is not None:
            reg.on_write(self)
