from emu.devices.debugcon import Debugcon


def test_bytes_go_out_and_reads_show_the_port_is_there() -> None:
    out = bytearray()
    port = Debugcon(out.extend)
    for value in b"ok\n":
        port.write(0, 1, value)
    assert out == b"ok\n"
    assert port.read(0, 1) == 0xE9
    assert port.size == 1
    assert port.register_name(0, True) == "debugcon"
