"""Whole machines: the built images in the real CPU."""

import itertools
import threading
from pathlib import Path

import pytest

from emu.config import Outcome, OutcomeKind
from emu.dataplanes.inline import inline_plane
from emu.dataplanes.iothread import iothread_plane
from emu.dataplanes.vhost import vhost_plane
from tests.guest import lab

GOOD = Outcome(OutcomeKind.DEBUG_EXIT, 0x10)
PLANES = [{}, {"iothread": "io0"}, {"vhost": "on"}]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return lab.pattern_disk(tmp_path / "disk.img")


@pytest.mark.parametrize("engine", ["fast", "public"])
def test_hello_prints_and_leaves_through_the_debug_exit(engine: str) -> None:
    run = lab.run("hello", engine=engine)
    assert (run.text, run.outcome) == ("hello\n", GOOD)
    assert run.rows["device", "com1", "THR", "write"] == 6
    assert run.rows["device", "com1", "LSR", "read"] == 6


@pytest.mark.parametrize("properties", PLANES, ids=["inline", "iothread", "vhost"])
@pytest.mark.parametrize("words", ["op=read", "op=randread qd=32", "op=write qd=8", "op=read wait=poll qd=4"])
def test_iobench_over_virtio_is_right_on_every_plane(
    disk: Path, properties: dict[str, str], words: str
) -> None:
    run = lab.run("iobench", f"path=virtio {words} count=600", virtio=disk, properties=properties)
    assert run.outcome == GOOD, run.text
    assert "errors=0" in run.text


@pytest.mark.parametrize(
    "words", ["op=read", "op=write", "op=read multiple=0 wait=poll", "op=read lba=48 pio=32"]
)
def test_iobench_over_ide_is_right(disk: Path, words: str) -> None:
    run = lab.run("iobench", f"path=ide {words} count=40", ide=disk)
    assert run.outcome == GOOD, run.text
    assert "errors=0" in run.text


def test_what_the_guest_wrote_is_on_the_medium(disk: Path) -> None:
    before = disk.read_bytes()
    run = lab.run("iobench", "op=write gen=7 count=64 bs=4096", virtio=disk, properties={"vhost": "on"})
    assert run.outcome == GOOD, run.text
    after = disk.read_bytes()
    key = (7 * 0xD1B54A32D192ED03) & (1 << 64) - 1
    for at in range(0, 64 * 4096, 8):
        word = int.from_bytes(before[at : at + 8], "little") ^ key
        assert after[at : at + 8] == word.to_bytes(8, "little")
    assert after[64 * 4096 :] == before[64 * 4096 :]


def test_a_wrong_byte_on_the_medium_is_found_by_the_guest(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(5 * 4096 + 100)
        file.write(b"\xff\x00")
    run = lab.run("iobench", "op=read count=10", virtio=disk)
    assert run.outcome == Outcome(OutcomeKind.DEBUG_EXIT, 0x11)
    assert "iobench: error request=5" in run.text


def test_a_queue_moves_between_planes_while_the_guest_runs(disk: Path) -> None:
    board, output = lab.build("iobench", "op=randread qd=16 count=20000", virtio=disk)
    machine, device = board.machine, board.virtio_disks[0]
    vcpu = machine.vcpu
    service = device.plane.service
    planes = itertools.cycle(
        [
            lambda: vhost_plane(service, vcpu.fail, "emu", vcpu.forget_stale_code),
            lambda: iothread_plane(service, vcpu.fail, "io0", vcpu.forget_stale_code),
            lambda: inline_plane(service, machine.post),
        ]
    )
    moves = [0]

    def mover() -> None:
        moved = threading.Event()

        def move() -> None:
            if device.running:
                device.move_to(next(planes)())
                moves[0] += 1
            moved.set()

        while not output.endswith(b"done\n") and machine.alive:
            machine.post(move)
            moved.wait(1)
            moved.clear()

    thread = threading.Thread(target=mover)
    thread.start()
    run = lab.finish(board, output)
    thread.join()
    assert run.outcome == GOOD, run.text
    assert "errors=0" in run.text
    assert moves[0] > 20


def test_vhost_runs_no_device_code_for_a_request(disk: Path) -> None:
    board, output = lab.build("iobench", "op=read count=500", virtio=disk, properties={"vhost": "on"})
    machine = board.machine
    seen = []
    machine.on_post_code = lambda _code: seen.append(machine.ledger.snapshot())
    run = lab.finish(board, output)
    assert run.outcome == GOOD
    between = seen[1] - seen[0]
    assert {key[0] for key in between} <= {"light", "irqchip", "marker", "cpu"}
    assert 0 < between["light", "virtio-blk0", "notify.q0", "write"] <= 500


def test_a_reset_boots_the_kernel_again() -> None:
    """The second boot of the same image prints the same; -no-reboot would end it."""
    board, output = lab.build("hello", no_reboot=False)
    machine = board.machine
    resets = []

    def on_exit(_status: int) -> None:
        resets.append(1)
        if len(resets) < 3:
            machine.vcpu.reset()
        else:
            machine.end(GOOD)

    machine.pio.unmap(0xF4)
    from emu.devices.debug_exit import DebugExit

    machine.pio.map(0xF4, 4, DebugExit(on_exit), "isa-debug-exit", wide=True)
    run = lab.finish(board, output)
    assert (run.text, run.outcome) == ("hello\n" * 3, GOOD)
