"""Debian's kernels and vhost-user: our front-end with others' back-ends, our back-end behind QEMU."""

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.os.debian import KERNELS, SHELL, Debian
from tests.os.guest import LIMIT_S, Console
from tests.os.test_filesystems import GROW, check_tree, host, sums_in_guest, sums_on_host
from tests.peers.backends import (
    STORAGE_DAEMON,
    TESTPMD,
    VIRTIOFSD,
    dpdk_testpmd,
    storage_daemon,
    virtiofsd,
)

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

QEMU = "qemu-system-x86_64"
EMU = (sys.executable, "-m", "emu")
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtiofs", "fuse", "ext4", "af_packet")
IMAGE_BYTES = 64 << 20
LARGE = 100_000_003
MEMORY = ("-machine", "q35,memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=256M,share=on")


@pytest.fixture(scope="module", params=list(KERNELS))
def debian(request: pytest.FixtureRequest) -> Debian:
    """A kernel at its shell, with `grow` to make a file tree."""
    return Debian(request.param, DRIVERS, SHELL, {"bin/grow": GROW})


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    """Ends guests, then back-ends."""
    with ExitStack() as stack:
        yield stack


def linux(debian: Debian, *words: str) -> list[str]:
    """What is the same for each guest of these tests."""
    flags = ["-m", "256", "-kernel", debian.kernel, "-initrd", debian.initrd, "-no-reboot"]
    flags += ["-append", "console=ttyS0 quiet panic=-1", "-display", "none", "-serial", "stdio"]
    return [*flags, *words]


def guest(at_end: ExitStack, words: Sequence[str]) -> Console:
    """A guest at its shell."""
    console = Console(words)
    at_end.callback(console.close)
    console.expect("# ")
    return console


def ours(at_end: ExitStack, debian: Debian, path: Path, device: str) -> Console:
    """`emu run` with one device that the process at `path` serves."""
    chardev = ("-chardev", f"socket,id=c,path={path}")
    words = linux(debian, "-timeout", str(LIMIT_S), "-nic", "none", *chardev)
    return guest(at_end, [*EMU, "run", *words, *device.split()])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An ext4 file system with a large file of the host in `host`."""
    tree = tmp_path / "tree"
    (tree / "host").mkdir(parents=True)
    (tree / "host/large").write_bytes(random.Random(3).randbytes(3_000_001))
    path = tmp_path / "disk.img"
    host("mkfs.ext4", "-q", "-F", "-d", tree, path, f"{IMAGE_BYTES >> 10}k")
    return path


def use_disk(console: Console, image: Path, folder: Path) -> None:
    """Mount, read what the host wrote, write a tree, leave: both sides have the same checksums."""
    console.ask("until [ -b /dev/vda ]; do usleep 10000; done; mkdir /disk; mount -t ext4 /dev/vda /disk")
    assert "/dev/vda /disk ext4 rw" in console.ask("cat /proc/mounts")
    assert sums_in_guest(console, "/disk/host") == sums_on_host(folder / "tree/host")
    console.ask("grow /disk/guest")
    sums = sums_in_guest(console, "/disk/guest")
    console.type("umount /disk && poweroff -f\n")
    assert console.finish() == 0
    host("e2fsck", "-fn", image)
    check_tree(image, "guest", sums, folder / "out")


@pytest.mark.peer(STORAGE_DAEMON)
def test_linux_mounts_ext4_from_qemus_storage_daemon_over_two_queues(
    debian: Debian, at_end: ExitStack, image: Path, tmp_path: Path
) -> None:
    at_end.enter_context(storage_daemon(image, tmp_path / "s", queues=2))
    device = "-device vhost-user-blk-pci,chardev=c,num-queues=2"
    console = ours(at_end, debian, tmp_path / "s", device)
    use_disk(console, image, tmp_path)


@pytest.mark.peer(STORAGE_DAEMON)
def test_linux_resets_the_device_while_nobody_serves_it(
    debian: Debian, at_end: ExitStack, image: Path, tmp_path: Path
) -> None:
    first = at_end.enter_context(ExitStack())
    first.enter_context(storage_daemon(image, tmp_path / "s"))
    console = ours(at_end, debian, tmp_path / "s", "-device vhost-user-blk-pci,chardev=c")
    console.ask("until [ -b /dev/vda ]; do usleep 10000; done")
    first.close()
    assert "gone" in console.ask("rmmod virtio_blk; [ -b /dev/vda ] || echo go''ne")
    console.type("insmod /modules/virtio_blk.ko &\n")  # it wants to read at once, and waits
    at_end.enter_context(storage_daemon(image, tmp_path / "s"))
    use_disk(console, image, tmp_path)


@pytest.mark.peer(VIRTIOFSD)
def test_linux_mounts_a_folder_of_the_host(debian: Debian, at_end: ExitStack, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "large").write_bytes(random.Random(5).randbytes(LARGE))
    (folder / "small").write_text("of the host\n")
    at_end.enter_context(virtiofsd(folder, tmp_path / "s"))
    console = ours(at_end, debian, tmp_path / "s", "-device vhost-user-fs-pci,chardev=c,tag=shared")
    console.ask("mkdir /share; mount -t virtiofs shared /share")
    assert "shared /share virtiofs rw" in console.ask("cat /proc/mounts")
    assert "of the host" in console.ask("cat /share/small")
    assert sums_in_guest(console, "/share") == sums_on_host(folder)
    console.ask("grow /share/guest; cp /share/large /share/copy")
    sums = sums_in_guest(console, "/share/guest")
    console.type("umount /share && poweroff -f\n")
    assert console.finish() == 0
    assert sums_on_host(folder / "guest") == sums
    large = hashlib.md5((folder / "large").read_bytes(), usedforsecurity=False).digest()
    assert hashlib.md5((folder / "copy").read_bytes(), usedforsecurity=False).digest() == large


@pytest.mark.peer(TESTPMD)
@pytest.mark.parametrize("who_listens", ["testpmd", "emu"])
def test_dpdks_testpmd_answers_ping(
    debian: Debian, at_end: ExitStack, tmp_path: Path, who_listens: str
) -> None:
    at_end.enter_context(dpdk_testpmd(tmp_path / "s", connects=who_listens == "emu"))
    device = "-netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n"
    role = ",server=on" if who_listens == "emu" else ""
    console = ours(at_end, debian, Path(f"{tmp_path / 's'}{role}"), device)
    console.ask("ifconfig eth0 10.9.0.2 netmask 255.255.255.0 up")
    console.ask("ping -c 1 -W 1 10.9.0.1; ping -c 1 -W 1 10.9.0.1")  # the address, while both get going
    said = console.ask("ping -c 5 -i 0.2 -W 20 -s 1400 10.9.0.1")
    assert re.search(r"5 packets transmitted, 5 packets received, 0% packet loss", said), said
    console.type("poweroff -f\n")
    assert console.finish() == 0


@pytest.mark.peer(QEMU)
def test_linux_in_qemu_mounts_ext4_from_emu_serve(
    debian: Debian, at_end: ExitStack, image: Path, tmp_path: Path
) -> None:
    words = ["serve", "vhost-user-blk", "--socket", str(tmp_path / "s"), "--num-queues", "2"]
    words += ["--drive", f"file={image},format=raw"]
    backend = at_end.enter_context(subprocess.Popen([*EMU, *words], stdout=subprocess.PIPE, text=True))
    at_end.callback(backend.terminate)
    assert backend.stdout is not None
    assert backend.stdout.readline() == f"listening on {tmp_path / 's'}\n"
    theirs = [QEMU, "-accel", "tcg", "-nodefaults", *MEMORY, *linux(debian)]
    theirs += ["-chardev", f"socket,id=c,path={tmp_path / 's'}"]
    theirs += ["-device", "vhost-user-blk-pci,chardev=c,num-queues=2"]
    use_disk(guest(at_end, theirs), image, tmp_path)
