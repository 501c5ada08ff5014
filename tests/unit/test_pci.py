from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.mmio import MmioBus
from emu.bus.pci import PciBus, pirq_of
from emu.bus.pci_bar import ROM, Bar, BarKind, BarWindow
from emu.bus.pci_config import COMMAND, EXPANSION_ROM, STATUS, STATUS_INTERRUPT, PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.pio import PioBus
from emu.bus.window import FaultLog
from emu.devices.host_bridge import Piix3IsaBridge, host_bridge
from emu.errors import ConfigError, MapError
from emu.testing.lines import RecordingLine

ADDRESS, DATA = 0xCF8, 0xCFC
ONES = 0xFFFF_FFFF
ENABLE = 0x8000_0000


@dataclass
class Scratch:
    """Registers that answer their own offset."""

    size: int
    written: list[tuple[int, int, int]] = field(default_factory=list)

    def read(self, offset: int, width: int) -> int:
        return offset

    def write(self, offset: int, width: int, value: int) -> None:
        self.written.append((offset, width, value))

    def register_name(self, offset: int, is_write: bool) -> str:
        return f"{offset:#x}"


def fail(error: BaseException) -> None:
    raise error


class Rig:
    """A board with nothing but buses."""

    def __init__(self, *, reset_control: Scratch | None = None) -> None:
        self.told: list[str] = []
        self.pio = PioBus(FaultLog(self.told.append), fail)
        self.mmio = MmioBus(FaultLog(self.told.append), fail)
        self.hot = self.mmio.areas([(0, 0xC000_0000)])[0]
        self.irq = [RecordingLine() for _ in range(16)]
        self.piix3 = Piix3IsaBridge(self.irq)
        self.pci = PciBus(
            self.mmio, self.pio, self.piix3.pirq, reset_control=reset_control, tell=self.told.append
        )
        self.pci.add(host_bridge(), 0)
        self.pci.add(self.piix3.function, 1)
        self.pio.map(ADDRESS, 8, self.pci, "pci", wide=True)

    def outl(self, port: int, value: int, width: int = 4) -> None:
        self.pio.write(0, port, width, value, 0)

    def inl(self, port: int, width: int = 4) -> int:
        return self.pio.read(0, port, width, 0)

    def select(self, device: int, register: int, number: int = 0) -> None:
        self.outl(ADDRESS, ENABLE | device << 11 | number << 8 | register & 0xFC)

    def get(self, device: int, register: int, width: int = 4) -> int:
        self.select(device, register)
        return self.inl(DATA + (register & 3), width)

    def put(self, device: int, register: int, value: int, width: int = 4) -> None:
        self.select(device, register)
        self.outl(DATA + (register & 3), value, width)

    def load(self, address: int, width: int = 4) -> int:
        return self.hot.read(0, address - self.hot.base, width, 0)


def card(*bars: Bar, name: str = "card", pin: int = 1) -> PciFunction:
    return PciFunction(PciIdentity(0x1AF4, 0x1042, 0x010000, 1, 0x1AF4, 2), name, bars=bars, intx_pin=pin)


def memory_bar(index: int = 0, size: int = 0x1000, kind: BarKind = BarKind.MEM32) -> Bar:
    return Bar(index, kind, size, [BarWindow(0, Scratch(size), f"bar{index}")])


def test_the_type_1_test_of_an_operating_system_finds_mechanism_1() -> None:
    rig = Rig()
    rig.outl(0xCFB, 0x01, 1)
    before = rig.inl(ADDRESS)
    rig.outl(ADDRESS, ENABLE)
    assert rig.inl(ADDRESS) == ENABLE
    assert before == 0
    assert rig.get(0, 0) == 0x1237_8086
    assert rig.get(1, 0) == 0x7000_8086
    assert rig.told == []


def test_absent_functions_and_other_buses_read_all_ones() -> None:
    rig = Rig()
    assert rig.get(5, 0) == ONES
    assert rig.get(5, 0, 2) == 0xFFFF
    rig.put(5, 4, 7)
    rig.outl(ADDRESS, ENABLE | 1 << 16)
    assert rig.inl(DATA) == ONES
    rig.outl(ADDRESS, 0)
    assert rig.inl(DATA) == ONES


def test_registers_are_read_by_byte_word_and_dword() -> None:
    rig = Rig()
    device = rig.pci.add(card())
    assert device == 2
    assert rig.get(device, 0x08) == 0x0100_0001
    assert rig.get(device, 0x0B, 1) == 0x01
    assert rig.get(device, 0x2E, 2) == 2
    assert rig.get(device, 0x3D, 1) == 1


def test_an_access_across_the_data_register_is_refused() -> None:
    rig = Rig()
    rig.select(0, 0)
    assert rig.pci.register_name(4, False) == "CONFIG_DATA"
    assert rig.pci.register_name(0, False) == "CONFIG_ADDRESS"
    assert (
        rig.inl(0xCFD, 4) == 0xFF12_3780 | 0x0
    )  # the bus makes byte cycles: 0xCFD, E, F and unclaimed 0xD00


def test_identity_is_read_only_and_status_bits_clear_by_ones() -> None:
    rig = Rig()
    device = rig.pci.add(card())
    function = rig.pci.function(device)
    assert function is not None
    rig.put(device, 0, 0)
    assert rig.get(device, 0) == 0x1042_1AF4
    function.config.put(STATUS, 2, 0xF900)
    rig.put(device, STATUS, 0x0900, 2)
    assert rig.get(device, STATUS, 2) == 0xF000
    rig.put(device, COMMAND, 0xFFFF, 2)
    assert rig.get(device, COMMAND, 2) == 0x0507


def test_the_reset_control_port_between_the_address_bytes_reaches_its_chip() -> None:
    control = Scratch(1)
    rig = Rig(reset_control=control)
    rig.outl(0xCF9, 0x06, 1)
    assert control.written == [(0, 1, 6)]
    rig.outl(ADDRESS, ENABLE)
    assert control.written == [(0, 1, 6)]
    assert rig.pci.register_name(1, True) == "0x0"


@pytest.mark.parametrize(
    ("kind", "size", "low", "high"),
    [
        (BarKind.MEM32, 0x1000, 0xFFFF_F000, None),
        (BarKind.MEM64, 0x4000, 0xFFFF_C004, ONES),
        (BarKind.IO, 0x40, 0xFFFF_FFC1, None),
    ],
)
def test_a_bar_tells_its_size_when_all_ones_are_written(
    kind: BarKind, size: int, low: int, high: int | None
) -> None:
    rig = Rig()
    device = rig.pci.add(card(memory_bar(2, size, kind)))
    rig.put(device, COMMAND, 7, 2)
    rig.put(device, 0x18, ONES)
    rig.put(device, 0x1C, ONES)
    assert rig.get(device, 0x18) == low
    assert rig.get(device, 0x1C) == (high or 0)
    assert rig.told == []
    function = rig.pci.function(device)
    assert function is not None
    assert function.bar_base(2) is None


def test_a_memory_bar_answers_where_it_is_put_and_only_while_decoded() -> None:
    rig = Rig()
    moves: list[int | None] = []
    region = Scratch(0x1000)
    device = rig.pci.add(
        card(Bar(0, BarKind.MEM32, 0x1000, [BarWindow(0, region, "regs")], on_move=moves.append))
    )
    rig.put(device, 0x10, 0xE000_0000)
    assert rig.load(0xE000_0010) == ONES
    rig.put(device, COMMAND, 2, 2)
    assert rig.load(0xE000_0010) == 0x10
    rig.put(device, 0x10, 0xE123_4FFF)
    assert rig.load(0xE000_0010) == ONES
    assert rig.load(0xE123_4010) == 0x10
    rig.put(device, COMMAND, 0, 2)
    assert rig.load(0xE123_4010) == ONES
    assert moves == [0xE000_0000, None, 0xE123_4000, None]


def test_a_bar_may_hold_several_windows() -> None:
    rig = Rig()
    windows = [BarWindow(0x0, Scratch(0x100), "low"), BarWindow(0x800, Scratch(0x100), "high")]
    device = rig.pci.add(card(Bar(4, BarKind.MEM64, 0x1000, windows, prefetch=True)))
    assert rig.get(device, 0x20) == 0xC
    rig.put(device, 0x20, 0xE000_1000)
    rig.put(device, COMMAND, 2, 2)
    assert rig.load(0xE000_1004) == 4
    assert rig.load(0xE000_1804) == 4
    assert rig.load(0xE000_1404) == ONES


def test_an_io_bar_answers_at_its_ports() -> None:
    rig = Rig()
    device = rig.pci.add(card(memory_bar(0, 0x20, BarKind.IO)))
    rig.put(device, 0x10, 0xC000)
    rig.put(device, COMMAND, 1, 2)
    assert rig.inl(0xC008) == 8
    rig.put(device, 0x10, 0)
    assert rig.inl(0xC008) == ONES


def test_a_bar_over_another_window_is_not_decoded_until_one_moves() -> None:
    rig = Rig()
    first, second = rig.pci.add(card(memory_bar())), rig.pci.add(card(memory_bar(), name="late"))
    for device in (first, second):
        rig.put(device, 0x10, 0xE000_0000)
        rig.put(device, COMMAND, 2, 2)
    assert rig.pci.bars.conflicts == 1
    assert "late: BAR 0 is not decoded" in rig.told[0]
    rig.put(second, COMMAND, 0, 2)
    rig.put(second, COMMAND, 2, 2)
    assert len(rig.told) == 1
    rig.put(first, 0x10, 0xE001_0000)
    late = rig.pci.function(second)
    assert late is not None
    assert late.bar_base(0) == 0xE000_0000
    assert rig.load(0xE000_0004) == 4
    assert rig.load(0xE001_0004) == 4


def test_two_bars_swap_places() -> None:
    rig = Rig()
    device = rig.pci.add(card(memory_bar(0), memory_bar(1)))
    rig.put(device, 0x10, 0xE000_0000)
    rig.put(device, 0x14, 0xE000_1000)
    rig.put(device, COMMAND, 2, 2)
    rig.put(device, 0x10, 0xE000_1000)
    rig.put(device, 0x14, 0xE000_0000)
    function = rig.pci.function(device)
    assert function is not None
    assert (function.bar_base(0), function.bar_base(1)) == (0xE000_1000, 0xE000_0000)


def test_a_bar_in_ram_is_not_decoded() -> None:
    rig = Rig()
    device = rig.pci.add(card(memory_bar()))
    rig.put(device, 0x10, 0x0010_0000)
    rig.put(device, COMMAND, 2, 2)
    function = rig.pci.function(device)
    assert function is not None
    assert function.bar_base(0) is None


def test_capabilities_form_a_list_and_their_masks_and_hooks_hold() -> None:
    rig = Rig()
    function = card()
    seen: list[tuple[str, int, int]] = []
    first = function.config.add_capability(0x09, bytes(14))
    second = function.config.add_capability(
        0x09,
        b"\x01\x02\x03\x04",
        b"\x00\x00\xff",
        before_read=lambda at, width: seen.append(("read", at, width)),
        after_write=lambda at, width: seen.append(("write", at, width)),
    )
    device = rig.pci.add(function)
    assert rig.get(device, STATUS, 2) & 0x10
    assert rig.get(device, 0x34, 1) == first == 0x40
    assert rig.get(device, first, 2) == second << 8 | 0x09
    assert rig.get(device, second + 1, 1) == 0
    seen.clear()
    rig.put(device, second + 4, 0xAABB, 2)
    assert rig.get(device, second + 4, 2) == 0x04BB
    assert seen == [("write", 4, 2), ("read", 4, 2)]


def test_capabilities_that_do_not_fit_are_the_boards_error() -> None:
    function = card()
    function.config.add_capability(0x09, bytes(180))
    with pytest.raises(MapError, match="no room"):
        function.config.add_capability(0x09, bytes(30))


@pytest.mark.parametrize(
    ("bar", "text"),
    [
        ((0, BarKind.MEM32, 0x1001), "power of two"),
        ((0, BarKind.MEM32, 8), "at least 16"),
        ((5, BarKind.MEM64, 0x1000), "BARs 0 to 5"),
    ],
)
def test_impossible_bars_are_refused(bar: tuple[int, BarKind, int], text: str) -> None:
    with pytest.raises(MapError, match=text):
        card(Bar(*bar))


def test_slots_are_taken_once() -> None:
    rig = Rig()
    with pytest.raises(MapError, match="taken by i440fx"):
        rig.pci.add(card(), 0)


def test_a_second_function_marks_the_device_as_multifunction() -> None:
    rig = Rig()
    rig.pci.add(card(), 4, 0)
    rig.pci.add(card(), 4, 1)
    assert rig.get(4, 0x0E, 1) == 0x80


def test_interrupt_pins_rotate_by_device_number() -> None:
    assert [pirq_of(device, 1) for device in (1, 2, 3, 4, 5)] == [0, 1, 2, 3, 0]
    assert pirq_of(1, 4) == 3


def test_an_interrupt_pin_reaches_the_routed_irq_and_is_shared() -> None:
    rig = Rig()
    a, b = card(), card()
    rig.pci.add(a, 2)
    rig.pci.add(b, 6)
    a.intx.set(True)
    assert rig.irq[10].levels == []
    rig.put(1, 0x61, 0x0A, 1)
    assert rig.irq[10].level
    b.intx.set(True)
    a.intx.set(False)
    assert rig.irq[10].level
    rig.put(1, 0x61, 0x0B, 1)
    assert not rig.irq[10].level
    assert rig.irq[11].level
    rig.put(1, 0x61, 0x8B, 1)
    assert not rig.irq[11].level
    rig.put(1, 0x61, 0x02, 1)
    assert rig.irq[2].levels == []


def test_two_pins_on_one_irq_are_ored() -> None:
    rig = Rig()
    a, b = card(), card()
    rig.pci.add(a, 2)
    rig.pci.add(b, 3)
    rig.put(1, 0x60, 0x0A0A_0A0A)
    a.intx.set(True)
    b.intx.set(True)
    a.intx.set(False)
    assert rig.irq[10].level
    b.intx.set(False)
    assert not rig.irq[10].level


def test_interrupt_disable_cuts_the_wire_but_status_shows_the_level() -> None:
    rig = Rig()
    function = card()
    device = rig.pci.add(function, 2)
    rig.put(1, 0x61, 0x0A, 1)
    function.intx.set(True)
    rig.put(device, COMMAND, 0x400, 2)
    assert not rig.irq[10].level
    assert rig.get(device, STATUS, 2) & STATUS_INTERRUPT
    rig.put(device, COMMAND, 0, 2)
    assert rig.irq[10].level
    function.intx.set(False)
    assert not rig.get(device, STATUS, 2) & STATUS_INTERRUPT


def test_bus_master_follows_the_command_register() -> None:
    rig = Rig()
    function, seen = card(), []
    function.on_command.append(lambda: seen.append(function.bus_master))
    device = rig.pci.add(function)
    rig.put(device, COMMAND, 4, 2)
    assert function.bus_master
    assert seen == [False, True]


def test_a_reset_takes_windows_and_interrupts_away() -> None:
    rig = Rig()
    function = card(memory_bar())
    device = rig.pci.add(function, 2)
    rig.put(1, 0x61, 0x0A, 1)
    rig.put(device, 0x10, 0xE000_0000)
    rig.put(device, COMMAND, 6, 2)
    function.intx.set(True)
    rig.pci.reset()
    assert rig.load(0xE000_0000) == ONES
    assert not rig.irq[10].level
    assert rig.get(device, 0x10) == 0
    assert rig.get(1, 0x61, 1) == 0x80
    assert not function.bus_master
    rig.put(device, 0x10, 0xE000_0000)
    rig.put(device, COMMAND, 2, 2)
    assert rig.load(0xE000_0004) == 4


def test_a_saved_board_goes_on_where_it_was_without_an_edge() -> None:
    saved: dict[str, object] = {}
    for step in ("save", "load"):
        rig = Rig()
        function = card(memory_bar())
        device = rig.pci.add(function, 2)
        if step == "save":
            rig.put(1, 0x61, 0x0A, 1)
            rig.put(device, 0x10, 0xE000_0000)
            rig.put(device, COMMAND, 6, 2)
            function.intx.set(True)
            rig.select(device, 0x10)
            saved = rig.pci.save()
    rig.pci.load(saved)
    assert rig.inl(DATA) == 0xE000_0000
    assert rig.load(0xE000_0004) == 4
    assert function.bus_master
    assert rig.irq[10].level
    assert rig.irq[10].levels == []
    function.intx.set(False)
    assert rig.irq[10].levels == [False]


def test_a_damaged_or_foreign_saved_state_is_refused() -> None:
    rig = Rig()
    good = rig.pci.save()
    rig.pci.load(good)
    other = Rig()
    other.pci.add(card())
    with pytest.raises(ConfigError, match="other devices"):
        rig.pci.load(other.pci.save())
    for damage in ({"kind": "x"}, {"version": 2}, {"address": None}, {"functions": {"0": {}, "8": {}}}):
        with pytest.raises(ConfigError, match="saved"):
            rig.pci.load({**good, **damage})


def with_rom(size: int = 0x800) -> tuple[Rig, int]:
    """A card with registers and a ROM that answers its own offsets."""
    rig, function = Rig(), card(memory_bar())
    function.add_rom(Scratch(size))
    return rig, rig.pci.add(function)


@pytest.mark.parametrize("probe", [ONES, 0xFFFF_FFFE, 0xFFFF_F800])
def test_an_expansion_rom_tells_its_size_and_is_not_decoded_meanwhile(probe: int) -> None:
    rig, device = with_rom(0x2_0000)
    rig.put(device, COMMAND, 7, 2)
    assert rig.get(device, EXPANSION_ROM) == 0
    rig.put(device, EXPANSION_ROM, probe)
    assert rig.get(device, EXPANSION_ROM) == 0xFFFE_0000 | probe & 1
    assert rig.told == []


def test_an_expansion_rom_answers_while_its_enable_bit_and_memory_decoding_are_on() -> None:
    rig, device = with_rom()
    rig.put(device, EXPANSION_ROM, 0xE100_0000)
    rig.put(device, COMMAND, 2, 2)
    assert rig.load(0xE100_0010) == ONES
    rig.put(device, EXPANSION_ROM, 0xE100_0001)
    assert rig.load(0xE100_0010) == 0x10
    rig.put(device, COMMAND, 0, 2)
    assert rig.load(0xE100_0010) == ONES
    rig.put(device, COMMAND, 2, 2)
    rig.put(device, EXPANSION_ROM, 0xE200_0001)
    assert (rig.load(0xE100_0010), rig.load(0xE200_0010)) == (ONES, 0x10)
    rig.put(device, EXPANSION_ROM, 0, 1)
    assert rig.load(0xE200_0010) == ONES
    rig.put(device, EXPANSION_ROM, 1, 1)
    rig.pci.reset()
    assert (rig.get(device, EXPANSION_ROM), rig.load(0xE200_0010)) == (0, ONES)


def test_an_expansion_rom_may_lie_where_a_bar_was() -> None:
    rig, device = with_rom(0x1000)
    rig.put(device, COMMAND, 2, 2)
    rig.put(device, 0x10, 0xE000_0000)
    rig.put(device, EXPANSION_ROM, 0xE000_0001)
    function = rig.pci.function(device)
    assert function is not None
    assert (function.bar_base(0), function.bar_base(ROM), rig.pci.bars.conflicts) == (0xE000_0000, None, 1)
    rig.put(device, 0x10, 0xE010_0000)
    assert (function.bar_base(0), function.bar_base(ROM)) == (0xE010_0000, 0xE000_0000)


def test_without_a_rom_the_register_reads_zero() -> None:
    rig = Rig()
    device = rig.pci.add(card())
    rig.put(device, EXPANSION_ROM, ONES)
    assert rig.get(device, EXPANSION_ROM) == 0


@pytest.mark.parametrize(
    ("size", "text"), [(0x400, "at least 2048"), (0x1800, "power"), (1 << 25, "at most")]
)
def test_an_expansion_rom_has_a_size_that_pci_can_express(size: int, text: str) -> None:
    with pytest.raises(MapError, match=text):
        card().add_rom(Scratch(size))


def test_a_card_has_one_expansion_rom() -> None:
    function = card()
    function.add_rom(Scratch(0x800))
    with pytest.raises(MapError, match="overlaps"):
        function.add_rom(Scratch(0x800))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([COMMAND, 0x10, 0x14, EXPANSION_ROM, EXPANSION_ROM + 2, 0x2E, 0xFC]),
            st.sampled_from([1, 2, 4]),
            st.one_of(st.integers(0, ONES), st.sampled_from([0xE000_0001, 0xE000_0801, 7, 0])),
        ),
        max_size=30,
    )
)
def test_any_writes_leave_the_rom_where_its_register_says_or_nowhere(
    writes: list[tuple[int, int, int]],
) -> None:
    rig, device = with_rom()
    function = rig.pci.function(device)
    assert function is not None
    for register, width, value in writes:
        if (register & 3) + width <= 4:
            rig.put(device, register, value & (1 << 8 * width) - 1, width)
        said, base = rig.get(device, EXPANSION_ROM), function.bar_base(ROM)
        assert said & 0x7FE == 0
        if base is not None:
            assert (base | 1, rig.get(device, COMMAND, 2) & 2) == (said, 2)
            assert rig.load(base + 4) == 4
