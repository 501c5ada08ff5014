from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.mmio import MmioBus
from emu.bus.msix import MsixTable
from emu.bus.pci import PciBus
from emu.bus.pci_bar import Bar, BarKind, BarWindow
from emu.bus.pci_config import PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.pio import PioBus
from emu.bus.window import FaultLog
from emu.devices.host_bridge import Piix3IsaBridge, host_bridge
from emu.testing.lines import RecordingLine, RecordingMsi


def fail(error: BaseException) -> None:
    raise error


def board() -> tuple[PioBus, MmioBus, PciBus]:
    pio, mmio = PioBus(FaultLog(lambda _line: None), fail), MmioBus(FaultLog(lambda _line: None), fail)
    piix3 = Piix3IsaBridge([RecordingLine() for _ in range(16)])
    pci = PciBus(mmio, pio, piix3.pirq)
    pci.add(host_bridge(), 0)
    pci.add(piix3.function, 1)
    for device in (2, 3):
        msix = MsixTable(4, RecordingMsi())
        ports = MsixTable(2, RecordingMsi())
        bars = [
            Bar(0, BarKind.IO, 0x40, [BarWindow(0, ports.table, "ports")]),
            Bar(1, BarKind.MEM32, 0x1000, msix.windows("card")),
            Bar(4, BarKind.MEM64, 0x4000, [BarWindow(0x3000, ports.pending, "other")], prefetch=True),
        ]
        function = PciFunction(PciIdentity(0x1AF4, 0x1042, 0x010000), "card", bars=bars, intx_pin=1)
        msix.attach(function, 1)
        pci.add(function, device)
    pio.map(0xCF8, 8, pci, "pci", wide=True)
    return pio, mmio, pci


registers = st.sampled_from([0x04, 0x06, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x3C, 0x40, 0x42, 0x60, 0xFC])
values = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.sampled_from([0, 7, 0xFFFF_FFFF, 0xE000_0000, 0xE000_1000, 0xC001, 0xCF8, 0xFEBF_F000]),
)
writes = st.tuples(st.integers(0, 4), registers, st.sampled_from([1, 2, 4]), values)


@settings(max_examples=50, deadline=None)
@given(st.lists(writes, max_size=40))
def test_no_configuration_write_breaks_the_map(changes: list[tuple[int, int, int, int]]) -> None:
    pio, mmio, pci = board()
    for device, register, width, value in changes:
        pio.write(0, 0xCF8, 4, 0x8000_0000 | device << 11 | register, 0)
        pio.write(0, 0xCFC, width, value & ((1 << (8 * width)) - 1), 0)
    for slot in range(256):
        if (function := pci.function(slot >> 3, slot & 7)) is not None:
            function.config_write(0x04, 2, 0)
    assert [window.name for window in pio.windows()] == ["pci"]
    hot = mmio.areas([])[0]
    for device in (2, 3):
        function = pci.function(device)
        assert function is not None
        assert [function.bar_base(index) for index in (0, 1, 4)] == [None] * 3
    assert hot.read(0, 0, 4, 0) == hot.read(0, 0xC, 4, 0) == 0xFFFF_FFFF


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0xCF8, 0xCFF), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
        max_size=40,
    )
)
def test_any_access_to_the_configuration_ports_is_answered(accesses: list[tuple[int, int, int]]) -> None:
    pio, _mmio, _pci = board()
    for port, width, value in accesses:
        pio.write(0, port, width, value & ((1 << (8 * width)) - 1), 0)
        assert 0 <= pio.read(0, port, width, 0) < 1 << (8 * width)
