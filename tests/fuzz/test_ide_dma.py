"""Any PRD table, any order of registers: answers only, and nothing outside of disk and memory."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.bus.memory import GuestMemory
from emu.bus.types import AccessError
from emu.devices.block.raw import RawImage
from emu.devices.ide_dma import scatter
from emu.devices.ide_seat import CdRom
from emu.devices.piix3_ide import Piix3Ide
from emu.testing.lines import RecordingLine

RAM = 1 << 20
DISK = 64 * 512
addresses = st.sampled_from([0, 0x1000, 0x1FFE, 0xFFFF, RAM - 512, RAM - 2, RAM, 0xFEE0_0000, 2**32 - 2])
entries = st.tuples(addresses | st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
tables = st.sampled_from([0, 0x2000, 0xFFF8, 0x1_FFF0, RAM - 8, RAM - 4, 0xFFFF_FFFC])
packets = st.tuples(
    st.sampled_from([0x00, 0x03, 0x12, 0x25, 0x28, 0x43, 0x46, 0x4A, 0x51, 0x5A, 0xA8, 0xBD]),
    st.binary(min_size=11, max_size=11),
)
steps = st.one_of(
    st.tuples(st.just("bm"), st.integers(0, 7), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("start"), st.just(0), st.just(1), st.sampled_from([0, 1, 8, 9])),
    st.tuples(st.just("table"), st.just(4), st.just(4), tables),
    st.tuples(st.just("pci"), st.just(4), st.just(2), st.sampled_from([0, 1, 4, 5])),
    st.tuples(st.just("ide"), st.integers(1, 6), st.just(1), st.integers(0, 3) | st.integers(0, 255)),
    st.tuples(
        st.just("ide"),
        st.just(7),
        st.just(1),
        st.sampled_from([0xC8, 0x25, 0xCA, 0x35, 0xA0, 0xA1, 0x08, 0xEF]),
    ),
    st.tuples(st.just("control"), st.just(0), st.just(1), st.sampled_from([0, 4, 2, 0x80])),
    st.tuples(st.just("prd"), st.just(0), st.just(0), st.lists(entries, max_size=6)),
    st.tuples(st.just("packet"), st.just(0), st.just(0), packets),
    st.tuples(st.just("take"), st.just(0), st.sampled_from([1, 2, 4]), st.integers(1, 50)),
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawImage]:
    path: Path = tmp_path_factory.mktemp("fuzz") / "disk.img"
    path.write_bytes(bytes(DISK))
    image = RawImage(path, read_only=False)
    yield image
    assert path.stat().st_size == DISK
    image.close()


@pytest.fixture(scope="module")
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(RAM)
    yield memory
    memory.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(steps, max_size=40), slave=st.booleans())
def test_a_hostile_driver_of_both_drives_gets_answers_only(
    disk: RawImage, memory: GuestMemory, script: list[tuple[str, int, int, object]], slave: bool
) -> None:
    lines = [RecordingLine(), RecordingLine()]
    ide = Piix3Ide(memory, lines, [disk, CdRom(disk), CdRom(None), None])
    memory.on_written = lambda gpa, length: memory.view(gpa, length).release()
    channel, master = ide.channels[0], ide.masters[0]
    if slave:
        channel.command.write(6, 1, 0xF0)
    for kind, offset, width, value in script:
        try:
            if isinstance(value, int):
                _access(ide, kind, offset, width, value)
            elif kind == "prd":
                assert isinstance(value, list)
                table = b"".join(struct.pack("<II", *entry) for entry in value)
                memory.view(0x2000, len(table))[:] = table
                master.write(4, 4, 0x2000)
            else:
                assert isinstance(value, tuple)
                channel.command.write(7, 1, 0xA0)
                for word in struct.unpack("<6H", bytes((value[0],)) + value[1]):
                    channel.command.write(0, 2, word)
        except AccessError:
            pass
        assert 0 <= master.read(2, 1) <= 0x67
    ide.reset()
    assert not lines[0].level


def _access(ide: Piix3Ide, kind: str, offset: int, width: int, value: int) -> None:
    channel, master = ide.channels[0], ide.masters[0]
    if kind == "pci":
        ide.function.config_write(offset, width, value)
    elif kind == "ide":
        channel.command.write(offset, width, value)
    elif kind == "control":
        channel.control.write(offset, width, value)
    elif kind == "take":
        read, _ = channel.command.direct(0, width)
        for _ in range(value):
            assert 0 <= read(0, width) < 1 << 8 * width
    else:
        master.write(offset, width, value & (1 << 8 * width) - 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(entries, min_size=1, max_size=20), length=st.integers(2, 1 << 25))
def test_a_table_gives_no_more_than_was_asked_for(
    memory: GuestMemory, table: list[tuple[int, int]], length: int
) -> None:
    raw = b"".join(struct.pack("<II", *entry) for entry in table)[:-1] + b"\x80"
    memory.view(0x2000, len(raw))[:] = raw
    length &= ~1
    where = scatter(memory, 0x2000, length)
    assert sum(size for _, size in where.pieces) + where.missing == length
    assert all(size > 0 and not address & 1 for address, size in where.pieces)
    assert not (where.exhausted and where.missing and where.pieces == [])
