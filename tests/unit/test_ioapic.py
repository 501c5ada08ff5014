import pytest

from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.ioapic import EOIR, IOREGSEL, IOWIN, LEVEL, MASKED, PINS, REDTBL, REMOTE_IRR, IoApic
from emu.devices.lapic import Lapic
from emu.devices.lapic_spec import EOI
from emu.devices.pic_8259 import Pic8259Pair
from emu.errors import ConfigError, MapError
from emu.testing.lines import RecordingMsi


class Rig:
    """An I/O APIC whose messages are recorded."""

    def __init__(self) -> None:
        self.msi = RecordingMsi()
        self.chip = IoApic(self.msi)

    def read(self, register: int) -> int:
        self.chip.write(IOREGSEL, 4, register)
        return self.chip.read(IOWIN, 4)

    def write(self, register: int, value: int) -> None:
        self.chip.write(IOREGSEL, 4, register)
        self.chip.write(IOWIN, 4, value)

    def entry(self, pin: int, low: int, destination: int = 0) -> None:
        self.write(REDTBL + 2 * pin + 1, destination << 24)
        self.write(REDTBL + 2 * pin, low)


def test_version_20_has_24_pins_and_cannot_be_written() -> None:
    rig = Rig()
    rig.write(1, 0)
    assert rig.read(1) == 0x00170020


def test_only_four_bits_of_the_id_are_kept_and_arbitration_shows_them() -> None:
    rig = Rig()
    rig.write(0, 0xFFFFFFFF)
    assert rig.read(0) == rig.read(2) == 0x0F000000


def test_after_reset_every_entry_is_masked() -> None:
    rig = Rig()
    rig.entry(3, 0x55)
    rig.chip.reset()
    assert all(rig.read(REDTBL + 2 * pin) == MASKED for pin in range(PINS))


def test_status_and_reserved_bits_of_an_entry_cannot_be_written() -> None:
    rig = Rig()
    rig.entry(0, 0xFFFFFFFF, 0xFF)
    assert (rig.read(REDTBL), rig.read(REDTBL + 1)) == (0x1AFFF, 0xFF000000)


def test_an_edge_sends_one_message_with_the_entrys_destination_and_mode() -> None:
    rig = Rig()
    rig.entry(4, 0x933, 0x12)
    rig.chip.set_pin(4, True)
    rig.chip.set_pin(4, True)
    rig.chip.set_pin(4, False)
    assert rig.msi.sent == [(0xFEE12004, 0x133)]


def test_an_edge_at_a_masked_pin_is_lost() -> None:
    rig = Rig()
    rig.entry(4, MASKED | 0x33)
    rig.chip.set_pin(4, True)
    rig.entry(4, 0x33)
    assert rig.msi.sent == []


def test_a_level_waits_behind_the_mask_and_is_sent_once_until_its_eoi() -> None:
    rig = Rig()
    rig.entry(10, MASKED | LEVEL | 0x44)
    rig.chip.set_pin(10, True)
    assert rig.msi.sent == []
    rig.entry(10, LEVEL | 0x44)
    rig.chip.set_pin(10, True)
    assert rig.msi.sent == [(0xFEE00000, LEVEL | 0x44)]
    assert rig.read(REDTBL + 20) & REMOTE_IRR
    rig.chip.eoi(0x45)
    assert len(rig.msi.sent) == 1
    rig.chip.eoi(0x44)
    assert len(rig.msi.sent) == 2
    rig.chip.set_pin(10, False)
    rig.chip.write(EOIR, 4, 0x44)
    assert len(rig.msi.sent) == 2
    assert not rig.read(REDTBL + 20) & REMOTE_IRR


def test_an_entry_that_becomes_edge_triggered_forgets_what_is_out() -> None:
    rig = Rig()
    rig.chip.set_pin(5, True)
    rig.entry(5, LEVEL | 0x60)
    rig.entry(5, MASKED | 0x60)
    rig.entry(5, LEVEL | 0x60)
    assert len(rig.msi.sent) == 2


def test_accesses_that_fit_no_register_are_refused() -> None:
    chip = Rig().chip
    for offset, width in ((IOWIN, 1), (IOWIN, 2), (0x20, 4), (EOIR, 4), (IOWIN + 4, 4)):
        with pytest.raises(AccessError):
            chip.read(offset, width)
    for offset, width in ((IOWIN, 1), (0x20, 4)):
        with pytest.raises(AccessError):
            chip.write(offset, width, 0)
    assert [chip.register_name(at, False) for at in (0, 0x10, 0x40, 0x44)] == [
        "IOREGSEL",
        "IOWIN",
        "EOIR",
        "reserved",
    ]


def test_a_register_past_the_table_reads_zero() -> None:
    rig = Rig()
    rig.write(REDTBL + 2 * PINS, 0xFFFFFFFF)
    assert rig.read(REDTBL + 2 * PINS) == rig.read(0xFF) == 0


def test_there_is_no_pin_24() -> None:
    with pytest.raises(MapError, match="I/O APIC pin 24"):
        Rig().chip.set_pin(24, True)


def test_a_saved_state_comes_back_without_a_message() -> None:
    rig, other = Rig(), Rig()
    rig.write(0, 0x05000000)
    rig.entry(9, LEVEL | 0x70, 3)
    rig.chip.set_pin(9, True)
    other.chip.load(rig.chip.save())
    assert other.chip.save() == rig.chip.save()
    assert other.msi.sent == []
    other.chip.eoi(0x70)
    assert other.msi.sent == [(0xFEE03000, LEVEL | 0x70)]


@pytest.mark.parametrize(
    "change", [{"entries": [0] * 3}, {"entries": ["x"] * PINS}, {"select": 256}, {"kind": "pic"}, {"id": -1}]
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    rig = Rig()
    with pytest.raises(ConfigError):
        rig.chip.load({**rig.chip.save(), **change})


class Cpu:
    """Pins that nobody watches."""

    def poke(self) -> None: ...
    def poke_from_outside(self) -> None: ...
    def nmi(self) -> None: ...
    def set_a20(self, enabled: bool) -> None: ...
    def reset(self) -> None: ...


def test_a_level_that_stays_comes_again_after_each_eoi_to_the_local_apic() -> None:
    lapic = Lapic(GuestClock(), Cpu(), Pic8259Pair(lambda _level: None))
    lapic.virtual_wire()
    chip = IoApic(lapic)
    lapic.on_eoi = chip.eoi
    chip.write(IOREGSEL, 4, REDTBL + 22)
    chip.write(IOWIN, 4, LEVEL | 0x51)
    chip.set_pin(11, True)
    for _ in range(3):
        assert (lapic.acknowledge(), lapic.pending()) == (0x51, False)
        lapic.write(EOI << 4, 4, 0)
        assert lapic.pending()
    chip.set_pin(11, False)
    assert lapic.acknowledge() == 0x51  # it was on its way
    lapic.write(EOI << 4, 4, 0)
    assert not lapic.pending()
