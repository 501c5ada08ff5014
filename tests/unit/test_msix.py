import threading

import pytest

from emu.bus.msix import CAP_MSIX, MsixTable
from emu.bus.pci_config import COMMAND, PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.types import AccessError
from emu.errors import ConfigError, MapError
from emu.testing.lines import RecordingMsi

ENABLE, MASK_ALL = 0x8000, 0x4000
LAPIC = 0xFEE0_0000


class Rig:
    def __init__(self, vectors: int = 3) -> None:
        self.target = RecordingMsi()
        self.msix = MsixTable(vectors, self.target)
        self.function = PciFunction(PciIdentity(0x1AF4, 0x1042, 0x010000), "card")
        self.at = self.msix.attach(self.function, 1)
        self.function.config_write(COMMAND, 2, 4)

    def control(self, value: int) -> None:
        self.function.config_write(self.at + 2, 2, value)

    def program(self, vector: int, data: int, *, masked: bool = False) -> None:
        for i, word in enumerate((LAPIC, 0, data, int(masked))):
            self.msix.table.write(16 * vector + 4 * i, 4, word)


def test_the_capability_tells_size_and_place() -> None:
    rig = Rig(vectors=5)
    assert rig.function.config_read(rig.at, 1) == CAP_MSIX
    assert rig.function.config_read(rig.at + 2, 2) == 4
    assert rig.function.config_read(rig.at + 4, 4) == 1
    assert rig.function.config_read(rig.at + 8, 4) == 0x801
    rig.control(0xFFFF)
    assert rig.function.config_read(rig.at + 2, 2) == 0xC004


def test_a_vector_sends_its_message_once_it_is_enabled() -> None:
    rig = Rig()
    rig.program(1, 0x31)
    rig.msix.notify(1)
    assert rig.target.sent == []
    rig.control(ENABLE)
    rig.msix.notify(1)
    assert rig.target.sent == [(LAPIC, 0x31)]
    assert rig.msix.enabled


def test_a_masked_vector_is_pending_until_it_is_unmasked() -> None:
    rig = Rig()
    rig.program(2, 0x32, masked=True)
    rig.control(ENABLE)
    rig.msix.notify(2)
    rig.msix.notify(2)
    assert rig.msix.pending.read(0, 4) == 4
    assert rig.target.sent == []
    rig.msix.table.write(0x2C, 4, 0)
    assert rig.target.sent == [(LAPIC, 0x32)]
    assert rig.msix.pending.read(0, 4) == 0


def test_the_function_mask_holds_all_vectors() -> None:
    rig = Rig()
    rig.program(0, 0x30)
    rig.program(1, 0x31)
    rig.control(ENABLE | MASK_ALL)
    rig.msix.notify(1)
    rig.msix.notify(0)
    assert rig.msix.pending.read(0, 8) == 3
    rig.control(ENABLE)
    assert rig.target.sent == [(LAPIC, 0x30), (LAPIC, 0x31)]


def test_nothing_is_sent_without_bus_master() -> None:
    rig = Rig()
    rig.program(0, 0x30)
    rig.control(ENABLE)
    rig.function.config_write(COMMAND, 2, 0)
    rig.msix.notify(0)
    assert rig.target.sent == []
    assert rig.msix.route(0) is None


def test_a_route_follows_masks_and_is_announced() -> None:
    rig = Rig()
    changes: list[int] = []
    rig.msix.on_change = changes.append
    rig.program(1, 0x31)
    assert set(changes) == {1}
    assert rig.msix.route(1) is None
    changes.clear()
    rig.control(ENABLE)
    assert changes == [0, 1, 2]
    assert rig.msix.route(1) == (LAPIC, 0x31)
    assert rig.msix.route(0) is None
    changes.clear()
    rig.msix.table.write(0x1C, 4, 1)
    rig.msix.table.write(0x1C, 4, 1)
    assert changes == [1]
    assert rig.msix.route(1) is None
    assert rig.msix.route(7) is None


def test_the_table_takes_dwords_and_qwords_only() -> None:
    rig = Rig()
    rig.msix.table.write(0, 8, 0x1_FEE0_1003)
    assert rig.msix.table.read(0, 4) == 0xFEE0_1000
    assert rig.msix.table.read(4, 4) == 1
    assert rig.msix.table.read(0, 8) == 0x1_FEE0_1000
    for offset, width in ((0, 1), (2, 4), (0, 2), (4, 8)):
        with pytest.raises(AccessError, match="width"):
            rig.msix.table.read(offset, width)
        with pytest.raises(AccessError, match="width"):
            rig.msix.table.write(offset, width, 0)
    with pytest.raises(AccessError, match="read-only"):
        rig.msix.pending.write(0, 4, 1)


def test_registers_have_names() -> None:
    rig = Rig()
    assert rig.msix.table.register_name(0x18, True) == "vector 1 data"
    assert rig.msix.pending.register_name(8, False) == "pending 64"


def test_a_reset_masks_everything() -> None:
    rig = Rig()
    rig.program(0, 0x30, masked=True)
    rig.control(ENABLE)
    rig.msix.notify(0)
    rig.function.reset()
    assert not rig.msix.enabled
    assert rig.msix.pending.read(0, 4) == 0
    assert rig.msix.table.read(0xC, 4) == 1


def test_vectors_that_do_not_exist_are_ignored_and_too_many_refused() -> None:
    rig = Rig()
    rig.control(ENABLE)
    rig.msix.notify(0xFFFF)
    assert rig.target.sent == []
    with pytest.raises(MapError, match="1 to 2048"):
        MsixTable(2049, rig.target)
    with pytest.raises(MapError, match="129 vectors overlap"):
        Rig(vectors=129)


def test_no_notification_is_lost_while_the_mask_moves() -> None:
    rig = Rig()
    rig.program(0, 0x30)
    rig.control(ENABLE)
    started = threading.Event()

    def notify() -> None:
        started.wait()
        for _ in range(2000):
            rig.msix.notify(0)

    thread = threading.Thread(target=notify)
    thread.start()
    started.set()
    for _ in range(500):
        rig.msix.table.write(0xC, 4, 1)
        rig.msix.table.write(0xC, 4, 0)
    rig.msix.table.write(0xC, 4, 1)
    thread.join()
    before = len(rig.target.sent)
    pending = rig.msix.pending.read(0, 4)
    rig.msix.table.write(0xC, 4, 0)
    assert len(rig.target.sent) == before + pending
    assert rig.target.sent


def test_a_saved_table_keeps_masks_and_pending_bits() -> None:
    rig, other = Rig(), Rig()
    rig.program(1, 0x31, masked=True)
    rig.control(ENABLE)
    rig.msix.notify(1)
    other.control(ENABLE)
    other.msix.load(rig.msix.save())
    assert other.target.sent == []
    other.msix.table.write(0x1C, 4, 0)
    assert other.target.sent == [(LAPIC, 0x31)]
    for damage in ({"kind": "x"}, {"table": b""}, {"pending": 3}):
        with pytest.raises(ConfigError, match="saved"):
            other.msix.load({**rig.msix.save(), **damage})
