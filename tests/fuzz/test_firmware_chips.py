"""Any guest, any bytes: keyboard, mouse, fw_cfg DMA, 8237 and screen raise nothing but AccessError."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.memory import GuestMemory
from emu.bus.types import AccessError
from emu.devices.dma_8237 import Dma8237
from emu.devices.fw_cfg import FwCfg, standard_items
from emu.devices.ps2_keyboard import Ps2Keyboard
from emu.devices.ps2_mouse import Ps2Mouse
from emu.devices.vga_text import TEXT_SIZE, VgaText

BYTES = st.integers(0, 0xFF)


def nothing() -> None:
    """Nobody listens."""


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("wrku"), BYTES), max_size=80), st.booleans())
def test_a_keyboard_takes_any_bytes(steps: list[tuple[str, int]], translated: bool) -> None:
    chip = Ps2Keyboard(nothing, lambda: translated)
    for step, value in steps:
        if step == "w":
            chip.write(value)
        elif step == "r":
            assert -1 <= chip.next_byte() <= 0xFF
        else:
            chip.key(value | (0xE000 if value & 1 else 0), step == "k")
        other = Ps2Keyboard(nothing, lambda: translated)
        other.load(chip.save())
        assert other.save() == chip.save()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("wrmb"), BYTES, st.integers(-(1 << 20), 1 << 20)), max_size=80))
def test_a_mouse_takes_any_bytes(steps: list[tuple[str, int, int]]) -> None:
    chip = Ps2Mouse(nothing)
    for step, value, distance in steps:
        if step == "w":
            chip.write(value)
        elif step == "r":
            assert -1 <= chip.next_byte() <= 0xFF
        elif step == "m":
            chip.move(distance, -distance, value - 128)
        else:
            chip.press(value)
        other = Ps2Mouse(nothing)
        other.load(chip.save())
        assert other.save() == chip.save()


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, (1 << 64) - 1), st.booleans())
def test_a_dma_order_stays_inside_of_ram(order: bytes, address: int, small: bool) -> None:
    memory = GuestMemory(1 << 20)
    chip = FwCfg(standard_items(1 << 20, cpus=1), {"a": b"abc"}, memory)
    at = address & 0x1F_FFFF if small else address
    if at + 16 <= 1 << 20:
        memory.view(at, 16)[:] = order
    chip.dma.write(0, 4, int.from_bytes((at >> 32).to_bytes(4, "big"), "little"))
    chip.dma.write(4, 4, int.from_bytes((at & 0xFFFF_FFFF).to_bytes(4, "big"), "little"))
    memory.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 31), BYTES, st.booleans()), max_size=60))
def test_dma_registers_and_the_screen_take_any_access(accesses: list[tuple[int, int, bool]]) -> None:
    dma, vga, memory = Dma8237(spacing=2), VgaText(), memoryview(bytearray(TEXT_SIZE))
    for chip in (dma, vga):
        for offset, value, is_write in accesses:
            with contextlib.suppress(AccessError):
                if is_write:
                    chip.write(offset, 1, value)
                else:
                    chip.read(offset, 1)
            chip.register_name(offset, is_write)
    assert len(vga.text(memory).split("\n")) <= 100
