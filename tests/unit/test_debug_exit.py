from emu.devices.debug_exit import DebugExit


def test_the_value_written_becomes_an_odd_status() -> None:
    statuses: list[int] = []
    port = DebugExit(statuses.append)
    port.write(0, 1, 0x10)
    port.write(0, 4, 0)
    port.write(0, 4, 0xFFFFFFFF)
    assert statuses == [0x21, 1, 0x1FFFFFFFF]
    assert port.read(0, 4) == 0
    assert port.size == 4
    assert port.register_name(0, True) == "exit"
