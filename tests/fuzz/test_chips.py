"""Any guest, any access, any time: no chip raises anything but AccessError, and its state survives a save."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError, Region
from emu.clock import GuestClock
from emu.devices.acpi_pm import AcpiPm, ApmPorts, switch_acpi
from emu.devices.debug_exit import DebugExit
from emu.devices.debugcon import Debugcon
from emu.devices.pic_8259 import Pic8259Pair
from emu.devices.pit_8254 import Pit8254
from emu.devices.ps2_8042 import Ps2Controller
from emu.devices.rtc_mc146818 import RtcMc146818
from emu.devices.serial_16550 import Serial16550
from emu.devices.system_control import ResetControl, SystemControlA, SystemControlB
from emu.errors import ConfigError


class Stateful(Protocol):
    """A chip with state."""

    def save(self) -> dict[str, object]: ...
    def load(self, saved: Mapping[str, object], /) -> None: ...
    def reset(self) -> None: ...


@dataclass
class Board:
    """The legacy chips with their wires."""

    out: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.clock = GuestClock()
        self.pic = Pic8259Pair(lambda _level: None)
        self.uart = Serial16550(self.pic.pin(4).line(), self.out.extend, self.clock)
        self.pit = Pit8254(self.clock, self.pic.pin(0).line())
        rtc = RtcMc146818(self.clock, self.pic.pin(8).line(), 1_700_000_000, ram_below_4g=1 << 28)
        ps2 = Ps2Controller(self.pic.pin(1).line(), self.pic.pin(12).line(), _ignore, _nothing)
        pm = AcpiPm(self.clock, self.pic.pin(9).line(), _nothing)
        b, a, cf9 = (
            SystemControlB(self.clock, self.pit),
            SystemControlA(_ignore, _nothing),
            ResetControl(_nothing),
        )
        apm = ApmPorts(switch_acpi(pm))
        self.bytewide: list[Region] = [
            *(self.pic.primary, self.pic.secondary, self.pic.elcr, self.uart, self.pit, rtc),
            *(ps2.data, ps2.command, b, a, cf9, apm, Debugcon(self.out.extend)),
        ]
        self.wide: list[Region] = [pm, DebugExit(lambda _status: None)]
        self.stateful: list[Stateful] = [self.pic, self.uart, self.pit, rtc, ps2, pm, b, a, cf9, apm]


def _ignore(_level: bool) -> None:
    """A pin nobody watches."""


def _nothing() -> None:
    """A request nobody serves."""


ACCESS = st.tuples(
    st.integers(0, 14), st.integers(0, 63), st.sampled_from((1, 2, 4)), st.none() | st.integers(0, 0xFFFFFFFF)
)
STEP = ACCESS | st.integers(0, 10**11) | st.binary(min_size=1, max_size=40) | st.just("ack")


def run(board: Board, step: tuple[int, int, int, int | None] | int | bytes | str) -> None:
    """One access, or some time, or some input, or an INTA cycle."""
    if isinstance(step, int):
        board.clock.advance(step if step < 10**8 else step % 10**8)
    elif isinstance(step, bytes):
        board.uart.receive(step)
    elif isinstance(step, str):
        assert 0 <= board.pic.acknowledge() <= 255
    else:
        which, offset, width, value = step
        regions = board.bytewide + board.wide
        region = regions[which]
        if region in board.bytewide:
            width = 1
        offset %= region.size - width + 1
        assert region.register_name(offset, value is not None)
        try:
            if value is None:
                assert 0 <= region.read(offset, width) < 1 << width * 8
            else:
                region.write(offset, width, value & (1 << width * 8) - 1)
        except AccessError:
            pass


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_no_sequence_of_accesses_upsets_the_chips(
    steps: list[tuple[int, int, int, int | None] | int],
) -> None:
    board = Board()
    for step in steps:
        run(board, step)
    other = Board()
    other.clock.advance(board.clock.now_ns())
    for chip, twin in zip(board.stateful, other.stateful, strict=True):
        saved = chip.save()
        twin.load(saved)
        again = twin.save()
        for name in set(saved) - {"checked_ns"}:
            assert again[name] == saved[name]
    for chip in board.stateful:
        chip.reset()
    board.clock.advance(10**8)


def ints_in(saved: Mapping[str, object]) -> list[tuple[str, ...]]:
    """Where the values of a saved state are."""
    paths: list[tuple[str, ...]] = []
    for name, value in saved.items():
        if isinstance(value, Mapping):
            paths += [(name, *rest) for rest in ints_in(value)]
        else:
            paths.append((name,))
    return paths


def changed(saved: Mapping[str, object], path: tuple[str, ...], value: object) -> dict[str, object]:
    """`saved` with one value replaced."""
    if len(path) == 1:
        return dict(saved) | {path[0]: value}
    inner = saved[path[0]]
    assert isinstance(inner, Mapping)
    return dict(saved) | {path[0]: changed(inner, path[1:], value)}


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**65)
    | st.integers(0, 300)
    | st.binary(max_size=20)
    | st.text()
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_forged_saved_state_is_refused_or_harmless(data: st.DataObject) -> None:
    board = Board()
    number = data.draw(st.integers(0, len(board.stateful) - 1))
    chip = board.stateful[number]
    saved = chip.save()
    for _ in range(data.draw(st.integers(1, 3))):
        saved = changed(saved, data.draw(st.sampled_from(ints_in(saved))), data.draw(VALUES))
    try:
        chip.load(saved)
    except ConfigError:
        return
    for step in data.draw(st.lists(ACCESS, max_size=20)):
        run(board, step)
    board.clock.advance(10**6)


def test_nothing_but_a_mapping_of_the_right_kind_is_taken() -> None:
    for chip in Board().stateful:
        with pytest.raises(ConfigError, match="kind"):
            chip.load({})
