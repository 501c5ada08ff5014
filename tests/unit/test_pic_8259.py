import pytest

from emu.devices.pic_8259 import Pic8259Pair
from emu.errors import ConfigError, MapError


class Pics:
    """A pair as firmware sets it up (vectors 0x20 and 0x28, all open), with its INTR changes."""

    def __init__(self, icw1: int = 0x11, icw4: int = 0x01, slave_icw4: int = 0x01) -> None:
        self.intr: list[bool] = []
        self.pair = Pic8259Pair(self.intr.append)
        self.lines = {irq: self.pair.pin(irq).line() for irq in range(16) if irq != 2}
        for chip, base, wiring, last in (
            (self.pair.primary, 0x20, 4, icw4),
            (self.pair.secondary, 0x28, 2, slave_icw4),
        ):
            chip.write(0, 1, icw1)
            chip.write(1, 1, base)
            chip.write(1, 1, wiring)
            chip.write(1, 1, last)

    def pulse(self, irq: int) -> None:
        self.lines[irq].set(True)
        self.lines[irq].set(False)

    def isr(self) -> tuple[int, int]:
        values = []
        for chip in (self.pair.primary, self.pair.secondary):
            chip.write(0, 1, 0x0B)
            values.append(chip.read(0, 1))
            chip.write(0, 1, 0x0A)
        return values[0], values[1]


def test_an_edge_is_delivered_once() -> None:
    pics = Pics()
    pics.pulse(4)
    assert pics.intr == [True]
    assert pics.pair.acknowledge() == 0x24
    assert pics.intr == [True, False]
    assert pics.isr() == (0x10, 0)
    pics.pair.primary.write(0, 1, 0x20)
    assert pics.isr() == (0, 0)
    assert not pics.pair.pending()


def test_a_masked_edge_waits() -> None:
    pics = Pics()
    pics.pair.primary.write(1, 1, 0xFF)
    pics.pulse(0)
    assert not pics.pair.intr
    assert pics.pair.primary.read(0, 1) == 1
    assert pics.pair.primary.read(1, 1) == 0xFF
    pics.pair.primary.write(1, 1, 0xFE)
    assert pics.pair.acknowledge() == 0x20


def test_a_lower_priority_waits_for_the_eoi_and_a_higher_one_nests() -> None:
    pics = Pics()
    pics.pulse(4)
    assert pics.pair.acknowledge() == 0x24
    pics.pulse(6)
    assert not pics.pair.pending()
    pics.pulse(1)
    assert pics.pair.acknowledge() == 0x21
    assert pics.isr() == (0x12, 0)
    pics.pair.primary.write(0, 1, 0x20)
    assert not pics.pair.pending()
    pics.pair.primary.write(0, 1, 0x64)
    assert pics.pair.acknowledge() == 0x26


def test_the_secondary_needs_both_eois() -> None:
    pics = Pics()
    pics.pulse(8)
    assert pics.pair.acknowledge() == 0x28
    assert pics.isr() == (4, 1)
    pics.pulse(12)
    assert not pics.pair.pending()
    pics.pair.secondary.write(0, 1, 0x20)
    assert not pics.pair.pending()
    pics.pair.primary.write(0, 1, 0x20)
    assert pics.pair.acknowledge() == 0x2C


def test_special_fully_nested_mode_lets_the_secondary_nest() -> None:
    pics = Pics(icw4=0x11)
    pics.pulse(12)
    assert pics.pair.acknowledge() == 0x2C
    pics.pulse(8)
    assert pics.pair.acknowledge() == 0x28


def test_a_request_that_went_away_is_spurious() -> None:
    pics = Pics()
    assert pics.pair.acknowledge() == 0x27
    assert pics.isr() == (0, 0)
    pics.pair.elcr.write(1, 1, 0xFF)
    assert pics.pair.elcr.read(1, 1) == 0xDE
    pics.lines[9].set(True)
    pics.lines[9].set(False)
    assert pics.pair.acknowledge() == 0x2F
    assert pics.isr() == (4, 0)


def test_a_level_stays_requested_until_its_source_lets_go() -> None:
    pics = Pics()
    pics.pair.elcr.write(1, 1, 0x08)
    pics.lines[11].set(True)
    assert pics.pair.acknowledge() == 0x2B
    assert pics.pair.secondary.read(0, 1) == 8
    pics.pair.secondary.write(0, 1, 0x20)
    pics.pair.primary.write(0, 1, 0x20)
    assert pics.pair.pending()
    pics.lines[11].set(False)
    assert pics.pair.secondary.read(0, 1) == 0


def test_two_sources_share_a_level_pin() -> None:
    pics = Pics()
    pics.pair.elcr.write(1, 1, 0x08)
    other = pics.pair.pin(11).line()
    pics.lines[11].set(True)
    other.set(True)
    pics.lines[11].set(False)
    assert pics.pair.pending()
    other.set(False)
    assert pics.pair.secondary.read(0, 1) == 0


def test_the_whole_chip_can_be_level_triggered() -> None:
    pics = Pics(icw1=0x19)
    pics.lines[3].set(True)
    assert pics.pair.acknowledge() == 0x23
    pics.pair.primary.write(0, 1, 0x20)
    assert pics.pair.acknowledge() == 0x23


def test_automatic_eoi_leaves_nothing_in_service() -> None:
    pics = Pics(icw4=0x03)
    pics.pulse(5)
    pics.pulse(6)
    assert [pics.pair.acknowledge(), pics.pair.acknowledge()] == [0x25, 0x26]
    assert pics.isr() == (0, 0)


def test_automatic_eoi_on_the_secondary_loses_no_request() -> None:
    pics = Pics(icw4=0x03, slave_icw4=0x03)
    pics.pulse(8)
    pics.pulse(9)
    assert [pics.pair.acknowledge(), pics.pair.acknowledge()] == [0x28, 0x29]
    assert not pics.pair.pending()


def test_automatic_eoi_may_rotate() -> None:
    pics = Pics(icw4=0x03)
    pics.pair.primary.write(0, 1, 0x80)
    pics.pulse(3)
    assert pics.pair.acknowledge() == 0x23
    pics.pulse(3)
    pics.pulse(4)
    assert [pics.pair.acknowledge(), pics.pair.acknowledge()] == [0x24, 0x23]
    pics.pair.primary.write(0, 1, 0x00)
    pics.pulse(4)
    pics.pulse(5)
    assert pics.pair.acknowledge() == 0x24


def test_rotation_moves_the_bottom_of_the_order() -> None:
    pics = Pics()
    pics.pair.primary.write(0, 1, 0xC4)
    for irq in (0, 4, 5):
        pics.pulse(irq)
    assert pics.pair.acknowledge() == 0x25
    pics.pair.primary.write(0, 1, 0xA0)
    assert pics.pair.acknowledge() == 0x20
    pics.pair.primary.write(0, 1, 0xE0)
    assert pics.pair.acknowledge() == 0x24


def test_special_mask_mode_lets_lower_priorities_through() -> None:
    pics = Pics()
    pics.pulse(1)
    assert pics.pair.acknowledge() == 0x21
    pics.pair.primary.write(1, 1, 0x02)
    pics.pulse(6)
    assert not pics.pair.pending()
    pics.pair.primary.write(0, 1, 0x68)
    assert pics.pair.acknowledge() == 0x26
    pics.pair.primary.write(0, 1, 0x48)
    pics.pulse(7)
    assert not pics.pair.pending()


def test_a_poll_acknowledges() -> None:
    pics = Pics()
    pics.pulse(3)
    pics.pair.primary.write(0, 1, 0x0C)
    assert pics.pair.primary.read(0, 1) == 0x83
    assert pics.isr() == (8, 0)
    pics.pair.primary.write(0, 1, 0x0C)
    assert pics.pair.primary.read(1, 1) == 0
    assert pics.pair.primary.read(1, 1) == 0


def test_single_mode_skips_icw3() -> None:
    pics = Pics()
    for port, value in ((0, 0x12), (1, 0x40), (1, 0xAA)):
        pics.pair.primary.write(port, 1, value)
    assert pics.pair.primary.read(1, 1) == 0xAA
    pics.pair.primary.write(1, 1, 0)
    pics.pulse(1)
    assert pics.pair.acknowledge() == 0x41


def test_initialisation_forgets_requests_and_masks() -> None:
    pics = Pics()
    pics.pulse(1)
    pics.pair.primary.write(1, 1, 0xF0)
    pics.pair.primary.write(0, 1, 0x13)
    assert pics.pair.primary.read(0, 1) == 0
    assert not pics.pair.intr


def test_a_primary_initialised_late_still_sees_the_secondary() -> None:
    pics = Pics()
    pics.pulse(8)
    for port, value in ((0, 0x11), (1, 0x20), (1, 0x04), (1, 0x01)):
        pics.pair.primary.write(port, 1, value)
    assert not pics.pair.pending()
    pics.pair.secondary.write(1, 1, 0x00)
    assert pics.pair.acknowledge() == 0x28


def test_registers_have_names_and_lines_can_be_driven_directly() -> None:
    pair = Pics().pair
    pair.set_irq(4, True)
    pair.set_irq(12, True)
    assert (pair.primary.read(0, 1), pair.secondary.read(0, 1)) == (0x14, 0x10)
    names = [pair.primary.register_name(at, write) for at in (0, 1) for write in (False, True)]
    assert names == ["IRR/ISR", "ICW1/OCW2-3", "IMR", "ICW2-4/OCW1"]
    assert [pair.elcr.register_name(at, True) for at in (0, 1)] == ["ELCR1", "ELCR2"]


def test_the_cascade_is_no_pin() -> None:
    pair = Pic8259Pair(lambda _level: None)
    for irq in (2, 16, -1):
        with pytest.raises(MapError, match="8259 pair"):
            pair.pin(irq)


def test_reset_lowers_intr_and_a_saved_state_takes_no_edge() -> None:
    pics, other = Pics(), Pics()
    pics.pulse(10)
    other.pair.load(pics.pair.save())
    assert other.intr == []
    assert other.pair.intr
    assert other.pair.acknowledge() == 0x2A
    pics.pair.reset()
    assert pics.intr == [True, False]
    assert pics.pair.primary.read(0, 1) == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "pit"}, "kind 'pit'"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"primary": 5}, "primary is missing"),
    ],
)
def test_a_wrong_saved_state_is_refused(change: dict[str, object], text: str) -> None:
    pair = Pics().pair
    with pytest.raises(ConfigError, match=text):
        pair.load(pair.save() | change)


@pytest.mark.parametrize(
    ("field", "value"),
    [("irr", 256), ("isr", -1), ("poll", 1), ("lowest_plus_1", 8), ("expect", 4), ("x", 1)],
)
def test_a_wrong_saved_field_is_refused(field: str, value: object) -> None:
    pair = Pics().pair
    saved = pair.save()
    inner = saved["primary"]
    assert isinstance(inner, dict)
    with pytest.raises(ConfigError, match=field):
        pair.load(saved | {"primary": inner | {field: value}})
