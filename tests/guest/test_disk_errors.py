"""A disk that fails under the guest: it gets the device's error status, and the machine goes on."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.boards.pc import assemble_pc
from emu.config import DeviceConfig, DriveConfig, MachineConfig, ObjectConfig, Outcome, OutcomeKind
from tests.guest import lab

SIZE, LEFT = 1 << 20, 64 << 10
"""Bytes of the disk, and of those the ones before the first that fails."""
FIRST_TIMED = 0xB0  # on port 0x80: guest-images/README.md
COULD_NOT_RUN = Outcome(OutcomeKind.DEBUG_EXIT, 0x12)
IOERR = 1  # VIRTIO 1.2, 5.2.6
READ_UNCORRECTABLE, WRITE_FAULT = 0x5140, 0x7104  # ATA-6: DRDY, DSC, ERR and UNC; with DF and ABRT


def cut(disk: Path) -> None:
    """The file ends earlier than when it was opened."""
    os.truncate(disk, LEFT)


def limit(_disk: Path) -> None:
    """No file of this process may be written beyond LEFT: EFBIG, as beyond a file system's limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def nothing(_disk: Path) -> None:
    """Its file system is too small anyway."""


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for LEFT bytes."""
    folder = tmp_path / "full"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={LEFT}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def places(plane: str) -> tuple[DriveConfig, MachineConfig]:
    """The drive's place and the machine's devices and objects for one path of requests."""
    if plane == "ide":
        return DriveConfig("", "ide", "raw", index=0), MachineConfig()
    properties = {"iothread": {"iothread": "t"}, "vhost": {"vhost": "on"}}.get(plane, {})
    return DriveConfig("", "none", "raw", id="d"), MachineConfig(
        devices=(DeviceConfig("virtio-blk-pci", {"drive": "d", **properties}),),
        objects=(ObjectConfig("iothread", "t", {}),) if plane == "iothread" else (),
    )


def bench(disk: Path, plane: str, operation: str, breaking: Callable[[Path], None]) -> tuple[Outcome, str]:
    """Break the disk behind iobench's first request, which is well; how that ends, and its last line."""
    drive, base = places(plane)
    output = bytearray()
    path = "ide" if plane == "ide" else "virtio"
    config = MachineConfig(
        ram_bytes=16 << 20,
        kernel=lab.image("iobench"),
        append=f"path={path} op={operation} check=none count=256 warmup=1",
        drives=(DriveConfig(str(disk), drive.interface, "raw", id=drive.id, index=drive.index),),
        devices=(lab.DEBUG_EXIT, *base.devices),
        objects=base.objects,
        no_reboot=True,
    )
    machine = assemble_pc(config, output.extend).machine
    machine.on_post_code = lambda code: breaking(disk) if code == FIRST_TIMED else None
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        outcome = machine.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        machine.close()
    return outcome, output.decode().splitlines()[-1]


@pytest.mark.parametrize("plane", ["ide", "virtio", "iothread", "vhost"])
@pytest.mark.parametrize(
    ("breaking", "operation", "ide_value"),
    [(cut, "read", READ_UNCORRECTABLE), (limit, "write", WRITE_FAULT)],
)
def test_the_guest_is_told_and_the_machine_goes_on(
    breaking: Callable[[Path], None],
    operation: str,
    ide_value: int,
    plane: str,
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(SIZE if operation == "read" else LEFT))
    os.truncate(disk, SIZE)
    outcome, line = bench(disk, plane, operation, breaking)
    value = ide_value if plane == "ide" else IOERR
    assert (outcome, line) == (COULD_NOT_RUN, f"iobench: fail what=status value={value}")


@pytest.mark.parametrize("plane", ["ide", "virtio", "iothread", "vhost"])
def test_a_host_that_is_full_is_an_error_of_the_disk(plane: str, full_folder: Path) -> None:
    disk = full_folder / "disk.img"
    disk.touch()
    os.truncate(disk, SIZE)
    outcome, line = bench(disk, plane, "write", nothing)
    value = WRITE_FAULT if plane == "ide" else IOERR
    assert (outcome, line) == (COULD_NOT_RUN, f"iobench: fail what=status value={value}")
    assert 0 < disk.stat().st_blocks * 512 <= LEFT
