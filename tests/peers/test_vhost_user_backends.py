"""Our front-end of vhost-user with a back-end that nobody of us wrote, which knows no `membarrier`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.boards.pc import assemble_pc
from emu.compare.measure import GuestResult, find_problem, read_output
from emu.compare.workloads import PatternDisk, Workload
from emu.config import DeviceConfig, MachineConfig
from tests.peers.backends import STORAGE_DAEMON, storage_daemon

IMAGE = Path(__file__).resolve().parents[2] / "guest-images/built/iobench.elf"
BS = 4096


class Ran(NamedTuple):
    """What one guest reported, and the kicks that the ring watch gave meanwhile."""

    result: GuestResult
    kicks: int


class Disk:
    """A disk of known content behind one qemu-storage-daemon."""

    def __init__(self, folder: Path, work: Workload) -> None:
        self.work, self.socket = work, folder / "s"
        self.content = PatternDisk(str(folder / "disk.img"), work)

    def run(self, *words: str) -> Ran:
        """One guest, to its end: every byte that it read or wrote is checked."""
        work = self.work
        append = work.command_line("vhost-user", self.content.next_generation())
        config = MachineConfig(
            ram_bytes=64 << 20,
            kernel=str(IMAGE),
            append=" ".join((append, *words)),
            devices=(
                DeviceConfig("isa-debug-exit", {"iobase": "0xf4"}),
                DeviceConfig("vhost-user-blk-pci", {"chardev": "c"}),
            ),
            sockets={"c": str(self.socket)},
        )
        text = bytearray()
        board = assemble_pc(config, text.extend)
        try:
            outcome = board.machine.run()
            assert board.vhost_user is not None
            kicks = sum(plane.ring_watch.kicks for plane in board.vhost_user.planes)
        finally:
            board.machine.close()
        result, problem = read_output(text.decode(), outcome)
        assert result is not None, problem
        assert not problem
        if "check=none" not in words:
            assert not find_problem(work, result, self.content)
        return Ran(result, kicks)


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk for one piece of work, served."""
    made = Disk(tmp_path, request.param)
    with storage_daemon(Path(made.content.file), made.socket):
        yield made


def works(count: int, *depths: int) -> list[Workload]:
    return [Workload(op, BS, qd, count) for op in ("read", "write") for qd in depths]


def name(work: Workload) -> str:
    return f"{work.op}-{work.qd}"


@pytest.mark.peer(STORAGE_DAEMON)
@pytest.mark.parametrize("disk", works(3000, 1, 32), ids=name, indirect=True)
def test_qemus_storage_daemon_serves_a_guest_byte_for_byte(disk: Disk) -> None:
    for _ in range(2):  # one front-end after the other
        assert disk.run().result["interrupts"] > 0


RINGS = [Workload("read", BS, qd, 5_000) for qd in (1, 4)]
MANY_RINGS = [Workload("read", BS, qd, 125_000) for qd in (1, 4)]
GUESTS = {
    "halting": ("check=all",),
    "halting, no thought": ("check=none",),
    "polling": ("wait=poll", "check=all"),
    "polling, no thought": ("wait=poll", "check=none"),
}
"""Words of the guest: how it waits, and whether it thinks (looks at 512 words) between two requests."""


@pytest.mark.peer(STORAGE_DAEMON)
@pytest.mark.parametrize("disk", RINGS, ids=name, indirect=True)
@pytest.mark.parametrize("guest", GUESTS)
def test_a_ring_of_a_back_end_without_membarrier_never_hangs(disk: Disk, guest: str) -> None:
    assert disk.run(*GUESTS[guest]).result["count"] == disk.work.count


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.peer(STORAGE_DAEMON)
@pytest.mark.parametrize("disk", MANY_RINGS, ids=name, indirect=True)
@pytest.mark.parametrize("guest", GUESTS)
def test_a_million_requests_never_hang(disk: Disk, guest: str) -> None:
    ran = disk.run(*GUESTS[guest])
    print(
        f"{guest}, depth {disk.work.qd}: {ran.kicks} kicks of the ring watch, {ran.result['iops']} a second"
    )
    assert ran.result["count"] == disk.work.count
