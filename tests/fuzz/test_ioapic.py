"""Any guest, any order of pins, accesses and EOIs: no error but AccessError, and no message storm."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError
from emu.devices.ioapic import EOIR, IOREGSEL, IOWIN, PINS, IoApic
from emu.testing.lines import RecordingMsi

OFFSETS = st.sampled_from([IOREGSEL, IOWIN, IOWIN, EOIR, 0x04, 0x11, 0xFFC])
STEPS = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.sampled_from([1, 2, 4, 4, 4]), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("select"), st.integers(0, 0x41), st.just(4), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("read"), OFFSETS, st.sampled_from([1, 2, 4]), st.just(0)),
    st.tuples(st.just("pin"), st.integers(0, PINS - 1), st.just(0), st.integers(0, 1)),
    st.tuples(st.just("eoi"), st.integers(0, 255), st.just(0), st.just(0)),
)


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_guest_upsets_the_io_apic(steps: list[tuple[str, int, int, int]]) -> None:
    msi = RecordingMsi()
    chip = IoApic(msi)
    for what, at, width, value in steps:
        before = len(msi.sent)
        with contextlib.suppress(AccessError):
            if what == "write":
                chip.write(at, width, value & (1 << 8 * width) - 1)
            elif what == "select":
                chip.write(IOREGSEL, 4, at)
                chip.write(IOWIN, 4, value)
            elif what == "read":
                assert 0 <= chip.read(at, width) < 1 << 32
            elif what == "pin":
                chip.set_pin(at, bool(value))
            else:
                chip.eoi(at)
        assert len(msi.sent) - before <= PINS
    assert all(address >> 20 == 0xFEE and 0 <= data <= 0xFFFF for address, data in msi.sent)
    copy = IoApic(msi)
    copy.load(chip.save())
    assert copy.save() == chip.save()
