from emu.clock import GuestClock
from emu.devices.pit_8254 import Pit8254
from emu.devices.system_control import REFRESH_NS, ResetControl, SystemControlA, SystemControlB
from emu.testing.lines import RecordingLine


def test_port_61_drives_the_gate_and_shows_out2() -> None:
    clock = GuestClock()
    pit = Pit8254(clock, RecordingLine())
    port = SystemControlB(clock, pit)
    port.write(0, 1, 0x00)
    pit.write(3, 1, 0xB0)
    pit.write(2, 1, 100)
    pit.write(2, 1, 0)
    assert port.read(0, 1) & 0x2F == 0x00
    port.write(0, 1, 0xFF)
    assert port.read(0, 1) & 0xEF == 0x0F
    clock.advance(100_000)
    assert port.read(0, 1) & 0xEF == 0x2F


def test_the_refresh_bit_toggles_with_time() -> None:
    clock = GuestClock()
    port = SystemControlB(clock, Pit8254(clock, RecordingLine()))
    clock.advance(REFRESH_NS - 1)
    assert not port.read(0, 1) & 0x10
    clock.advance(1)
    assert port.read(0, 1) & 0x10
    clock.advance(REFRESH_NS)
    assert not port.read(0, 1) & 0x10


def test_port_61_is_saved_and_reset() -> None:
    clock = GuestClock()
    pit = Pit8254(clock, RecordingLine())
    port, other = SystemControlB(clock, pit), SystemControlB(clock, pit)
    port.write(0, 1, 0x03)
    other.load(port.save())
    assert other.read(0, 1) & 3 == 3
    port.reset()
    assert port.read(0, 1) & 3 == 0
    assert port.register_name(0, False) == "NMISC"


def test_port_92_moves_a20_and_resets_on_a_rising_bit() -> None:
    a20: list[bool] = []
    resets: list[int] = []
    port = SystemControlA(a20.append, lambda: resets.append(1))
    port.write(0, 1, 0x02)
    port.write(0, 1, 0x00)
    assert a20 == [True, False]
    assert resets == []
    port.write(0, 1, 0x03)
    port.write(0, 1, 0x03)
    assert resets == [1]
    assert port.read(0, 1) == 0x03
    port.reset()
    assert port.read(0, 1) == 0x02
    other = SystemControlA(a20.append, lambda: None)
    other.load(port.save())
    assert other.read(0, 1) == 0x02
    assert other.register_name(0, True) == "PORT92"


def test_cf9_resets_by_bit_2() -> None:
    resets: list[int] = []
    port = ResetControl(lambda: resets.append(1))
    port.write(0, 1, 0xF2)
    assert port.read(0, 1) == 0x02
    assert resets == []
    port.write(0, 1, 0x06)
    assert resets == [1]
    other = ResetControl(lambda: None)
    other.load(port.save())
    assert other.read(0, 1) == 0x02
    port.reset()
    assert port.read(0, 1) == 0
    assert port.register_name(0, True) == "RC"
