import pytest

from emu.bus.registers import Reg, RegisterBlock
from emu.bus.types import AccessError
from emu.errors import MapError


class Sample(RegisterBlock):
    """A status word, an enable word, a computed counter and a lone byte."""

    size = 16

    def _wrote(self) -> None:
        self.writes += 1

    def _now(self) -> int:
        return 0x11223344

    STS = Reg(0, bits=16, w1c=0x00FF, reset=0x8000, on_write=_wrote)
    EN = Reg(2, bits=16, rw=0x0FFF, on_write=_wrote)
    COUNT = Reg(4, bits=32, on_read=_now)
    CTL = Reg(8, rw=0xF0, reset=0x05)

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0


def test_bits_outside_the_masks_keep_their_reset_value() -> None:
    block = Sample()
    block.write(2, 2, 0xFFFF)
    block.write(8, 1, 0xAA)
    assert block.read(2, 2) == 0x0FFF
    assert block.read(8, 1) == 0xA5


def test_writing_ones_clears_status_bits_and_nothing_else() -> None:
    block = Sample()
    block[Sample.STS] |= 0x33
    block.write(0, 2, 0xFF11)
    assert block.read(0, 2) == 0x8022


def test_a_byte_write_touches_only_its_byte() -> None:
    block = Sample()
    block.write(2, 2, 0x0ABC)
    block.write(3, 1, 0x05)
    assert block.read(2, 2) == 0x05BC
    assert block.read(3, 1) == 0x05
    block[Sample.STS] |= 0xFF
    block.write(1, 1, 0xFF)
    assert block[Sample.STS] == 0x80FF


def test_a_wide_access_spans_registers_and_runs_each_hook_once() -> None:
    block = Sample()
    block[Sample.STS] |= 0x0F
    block.write(0, 4, 0x0123_0003)
    assert block.read(0, 4) == 0x0123_800C
    assert block.writes == 2
    assert block.read(6, 4) == 0x0005_1122


def test_a_computed_register_is_read_only() -> None:
    block = Sample()
    assert block.read(4, 4) == 0x11223344
    assert block.read(5, 1) == 0x33
    with pytest.raises(AccessError, match="read-only"):
        block.write(4, 4, 1)


def test_holes_are_faults() -> None:
    with pytest.raises(AccessError, match="no register"):
        Sample().read(12, 4)
    with pytest.raises(AccessError, match="no register"):
        Sample().write(9, 1, 0)


def test_names_come_from_the_declaration() -> None:
    block = Sample()
    assert [block.register_name(at, False) for at in (0, 3, 7, 8, 9)] == ["STS", "EN", "COUNT", "CTL", "0x9"]
    assert block.size == 16


def test_saved_values_come_back_without_bits_the_guest_cannot_set() -> None:
    block = Sample()
    block.write(2, 2, 0x123)
    saved = block.save_registers()
    other = Sample()
    other.load_registers(saved | {"CTL": 0xFF})
    assert other.read(2, 2) == 0x123
    assert other.read(8, 1) == 0xF5
    other.reset_registers()
    assert other.read(2, 2) == 0


def test_a_wrong_declaration_fails_at_once() -> None:
    with pytest.raises(MapError, match="12 bits"):
        Reg(0, bits=12)
    with pytest.raises(MapError, match="masks overlap"):
        Reg(0, rw=1, w1c=1)
    with pytest.raises(MapError, match="B overlaps A at 0x1"):
        type("Bad", (RegisterBlock,), {"A": Reg(0, bits=16), "B": Reg(1)})
    with pytest.raises(MapError, match="cannot be extended"):
        type("Longer", (Sample,), {"EXTRA": Reg(12)})


def test_a_subclass_without_registers_has_its_parents_map() -> None:
    class Child(Sample):
        pass

    block = Child()
    block.write(2, 2, 0x123)
    assert block.read(2, 2) == 0x123
