import pytest

from emu.boot.pci_setup import set_up_pci
from emu.bus.mmio import MmioBus
from emu.bus.pci import PciBus
from emu.bus.pci_bar import Bar, BarKind
from emu.bus.pci_config import COMMAND, INTERRUPT_LINE, PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.pio import PioBus
from emu.bus.window import FaultLog
from emu.devices.host_bridge import Piix3IsaBridge, host_bridge
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine


class Elcr:
    """The edge/level registers of the two PICs."""

    size = 2

    def __init__(self) -> None:
        self.bits = [0, 0]

    def read(self, offset: int, width: int) -> int:
        return self.bits[offset]

    def write(self, offset: int, width: int, value: int) -> None:
        self.bits[offset] = value

    def register_name(self, offset: int, is_write: bool) -> str:
        return "ELCR"


def fail(error: BaseException) -> None:
    raise error


def board() -> tuple[PciBus, list[RecordingLine]]:
    irq = [RecordingLine() for _ in range(16)]
    piix3 = Piix3IsaBridge(irq)
    pci = PciBus(MmioBus(FaultLog(), fail), PioBus(FaultLog(), fail), piix3.pirq)
    pci.add(host_bridge(), 0)
    pci.add(piix3.function, 1)
    return pci, irq


def card(*bars: Bar) -> PciFunction:
    return PciFunction(PciIdentity(0x1AF4, 0x1042, 0x010000), "card", bars=bars, intx_pin=1)


def test_bars_are_placed_by_size_without_overlap_and_decoded() -> None:
    pci, _ = board()
    small = card(Bar(1, BarKind.MEM32, 0x1000), Bar(4, BarKind.MEM64, 0x4000, prefetch=True))
    large = card(Bar(0, BarKind.IO, 0x40), Bar(2, BarKind.MEM32, 0x0100_0000))
    pci.add(small)
    pci.add(large)
    pci.add(card(Bar(0, BarKind.IO, 0x20)), 3, 2)
    set_up_pci(pci, Elcr())
    assert large.bar_base(2) == 0xE000_0000
    assert small.bar_base(4) == 0xE100_0000
    assert small.bar_base(1) == 0xE100_4000
    assert large.bar_base(0) == 0xC000
    other = pci.function(3, 2)
    assert other is not None
    assert other.bar_base(0) == 0xC040
    assert small.config.get(COMMAND, 2) == 0x0103
    assert pci.bars.conflicts == 0


def test_interrupts_are_routed_as_pc_firmware_does() -> None:
    pci, irq = board()
    cards = [card() for _ in range(4)]
    for function in cards:
        pci.add(function)
    elcr = Elcr()
    set_up_pci(pci, elcr)
    assert elcr.bits == [0, 0x0C]
    assert [function.config.get(INTERRUPT_LINE, 1) for function in cards] == [10, 11, 11, 10]
    for function, line in zip(cards, (10, 11, 11, 10), strict=True):
        function.intx.set(True)
        assert irq[line].level
        function.intx.set(False)
        assert not irq[line].level


def test_a_64_bit_bar_too_large_for_the_low_window_goes_above_4_gib() -> None:
    pci, _ = board()
    function = card(Bar(0, BarKind.MEM64, 1 << 30))
    pci.add(function)
    set_up_pci(pci, Elcr())
    assert function.bar_base(0) == 1 << 38


def test_too_large_a_bar_is_the_users_error() -> None:
    pci, _ = board()
    pci.add(card(Bar(0, BarKind.MEM32, 1 << 30)))
    with pytest.raises(ConfigError, match=r"PCI device 02.0: no room for a BAR of 0x40000000 bytes"):
        set_up_pci(pci, Elcr())
