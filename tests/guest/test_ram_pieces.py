"""Each piece of RAM has numbers of its own in the engine, however the board cuts it."""

import itertools
from pathlib import Path

import pytest

from emu.boards.pc import assemble_pc
from emu.config import MIB, DeviceConfig, MachineConfig
from tests.guest.lab import image
from tests.vhost_user_backend import ScriptedBackend


@pytest.mark.parametrize("ram_mib", [1, 2, 20, 128, 4096 + 3])
def test_pieces_do_not_share_numbers(ram_mib: int) -> None:
    board = assemble_pc(MachineConfig(ram_bytes=ram_mib * MIB, kernel=image("hello")), lambda _data: None)
    engine = board.machine.engine
    spans = sorted((ram_addr, ram_addr + size) for _, size, ram_addr in engine.code.pieces)
    assert spans[0][0] == 0
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    board.machine.close()


def test_a_write_across_pieces_is_looked_at_in_each() -> None:
    board = assemble_pc(MachineConfig(kernel=image("hello")), lambda _data: None)
    engine = board.machine.engine
    spans = engine.code.spans(0xF_F000, 0x2000)
    assert sorted(end - start for start, end in spans) == [0x1000, 0x1000]
    numbers = {gpa: ram_addr for gpa, _, ram_addr in engine.code.pieces}
    assert (numbers[0x10_0000], numbers[0x10_0000] + 0x1000) in spans
    board.machine.close()


def test_a_board_whose_disk_another_process_serves_has_the_fast_engine(tmp_path: Path) -> None:
    backend = ScriptedBackend(tmp_path / "s")
    config = MachineConfig(
        kernel=image("hello"),
        devices=(DeviceConfig("vhost-user-blk-pci", {"chardev": "c"}),),
        sockets={"c": str(tmp_path / "s")},
    )
    board = assemble_pc(config, lambda _data: None)
    assert board.machine.engine.name == "fast"
    board.machine.close()
    backend.die()
