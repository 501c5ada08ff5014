"""A guest that writes anything anywhere in BAR and PCI_CFG window gets values and AccessError, no more."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.memory import GuestMemory
from emu.bus.types import AccessError
from emu.dataplanes.inline import inline_plane
from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.pci_common import FIELDS
from emu.devices.virtio.pci_transport import BAR_SIZE, VirtioPci
from emu.kernel.irqfd import bind_irqfd
from emu.testing.lines import RecordingMsi

OFFSETS = st.one_of(
    st.sampled_from(sorted(FIELDS)),
    st.integers(0, 64),
    st.integers(0x2000, 0x2040),
    st.integers(0, BAR_SIZE - 1),
)
VALUES = st.one_of(st.sampled_from([0, 1, 3, 8, 11, 15, 0x1000, 0x2000, 0x8000]), st.integers(0, 0xFFFF_FFFF))
ACCESSES = st.tuples(st.sampled_from("rwwwc"), OFFSETS, st.sampled_from([1, 2, 4]), VALUES)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> RawImage:
    path: Path = tmp_path_factory.mktemp("pci") / "disk"
    path.write_bytes(bytes(1 << 16))
    return RawImage(path, True)


MEMORY = GuestMemory(1 << 20)


@settings(max_examples=400, deadline=None)
@given(accesses=st.lists(ACCESSES, max_size=40), ready=st.booleans())
def test_any_access_is_answered(
    medium: RawImage, accesses: list[tuple[str, int, int, int]], ready: bool
) -> None:
    device = VirtioDevice(inline_plane(VirtioBlk(medium, queues=2)), MEMORY, post=lambda call: call())
    pci = VirtioPci(device, RecordingMsi(), bind_irqfd)
    pci.function.config_write(4, 2, 6)
    if ready:
        for offset, width, value in ((20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11)):
            pci.write(offset, width, value)
    for kind, offset, width, value in accesses:
        stored = value & (1 << 8 * width) - 1
        try:
            if kind == "r":
                assert 0 <= pci.read(offset, width) < 1 << 8 * width
            elif kind == "w":
                pci.write(offset, width, stored)
            else:
                pci.function.config_write(offset & 0xFF, width, stored)
                pci.function.config_read(offset & 0xFF, width)
        except AccessError:
            assert kind != "c"
    device.close()
