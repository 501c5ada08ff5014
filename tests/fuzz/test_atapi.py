"""Any packet: data no longer than asked for and room allows, or a sense key; never an error of ours."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.costs import Costs
from emu.devices.atapi import AtapiDrive
from emu.devices.atapi_commands import Blocks, CdUnit, CheckConditionError
from emu.devices.block.raw import RawImage
from emu.devices.ide_identify import Identity

BLOCKS = 40
opcodes = st.sampled_from(
    [0, 3, 0x12, 0x1B, 0x1E, 0x25, 0x28, 0x2B, 0x43, 0x46, 0x4A, 0x51, 0x5A, 0xA8, 0xBB, 0xBD]
)
small = st.lists(st.integers(0, 3) | st.integers(0, 255), min_size=11, max_size=11)
packets = st.builds(lambda opcode, rest: bytes((opcode, *rest)), opcodes | st.integers(0, 255), small)
limits = st.sampled_from([0, 1, 2, 3, 7, 512, 2047, 2048, 4095, 0x8000, 0xFFFE, 0xFFFF])


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawImage]:
    path = tmp_path_factory.mktemp("fuzz") / "disc.iso"
    path.write_bytes(bytes(BLOCKS * 2048))
    image = RawImage(path, read_only=True)
    yield image
    image.close()


@settings(max_examples=100, deadline=None)
@given(script=st.lists(packets, max_size=20), change=st.booleans())
def test_the_unit_answers_any_packet(disc: RawImage, script: list[bytes], change: bool) -> None:
    unit = CdUnit(disc)
    for packet in script:
        try:
            answer = unit.execute(packet)
        except CheckConditionError:
            assert unit.sense[0] in (2, 5, 6)
            continue
        if isinstance(answer, Blocks):
            assert answer.count > 0
            assert answer.lba + answer.count <= BLOCKS
        else:
            assert len(answer) <= 0xFFFF
        if change:
            unit.change_medium(None if packet[1] & 1 else disc)


@settings(max_examples=100, deadline=None)
@given(script=st.lists(st.tuples(packets, limits), max_size=6))
def test_every_packet_ends(disc: RawImage, script: list[tuple[bytes, int]]) -> None:
    drive = AtapiDrive(disc, False, Identity(), Costs())
    task = drive.task
    for packet, limit in script:
        task.registers[1], task.registers[4], task.registers[5] = 0, limit & 0xFF, limit >> 8
        drive.command(0xA0)
        for index, word in enumerate(struct.unpack("<6H", packet)):
            task.words[index] = word
        drive.block_written()
        left = BLOCKS * 2048 + 0x10000
        while task.status & 0x08:
            size = task.registers[4] | task.registers[5] << 8
            assert 0 < size <= max(limit, 2)
            assert task.index < task.read_end <= len(task.words)
            assert task.read_end - task.index == (size + 1) // 2
            left -= size
            assert left >= 0
            task.index = task.read_end
            drive.block_read()
        assert task.intrq
