"""ext4 in Debian's kernels over each path to a disk: what the guest wrote is what the host finds."""

import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.os.debian import DRIVERS, SHELL, Debian, missing
from tests.os.guest import DISKS, Guest

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

FILESYSTEM = (*DRIVERS, "ata_piix", "sd_mod", "ext4")
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
IMAGE_BYTES = 64 << 20
SUM = re.compile(r"^([0-9a-f]{32})  \./(\S+)\r?$", re.MULTILINE)

GROW = b"""\
#!/bin/sh
set -e
mkdir -p "$1/a/b/c"
cd "$1"
for i in $(seq 50); do
    mkdir -p d$((i % 7))
    head -c $((i * i * 51 + i % 5)) /dev/urandom > d$((i % 7))/f$i
done
head -c 2000011 /dev/urandom > a/large
cat /bin/busybox /bin/busybox > a/b/large
: > a/b/empty
dd if=/bin/busybox of=a/b/c/sparse bs=4096 seek=1000 count=3 2>/dev/null
ln a/large a/hard
ln -s ../large a/b/soft
mv d1/f1 a/b/c/moved
rm d2/f2
echo more >> d3/f3
"""
"""A file tree: many files, odd and large sizes, an empty one and one of holes; links, a move, a removal."""
FILES = 53
"""Regular files that GROW leaves."""


@pytest.fixture(scope="module")
def debian() -> Callable[[str], Debian]:
    """The kernel of a version, its initramfs made once."""
    made: dict[str, Debian] = {}

    def get(version: str) -> Debian:
        if version not in made:
            made[version] = Debian(version, FILESYSTEM, SHELL, {"bin/grow": GROW})
        return made[version]

    return get


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file system that the host has made, with files of the host in `host`."""
    tree, path = tmp_path / "tree", tmp_path / "disk.img"
    content = random.Random(3)
    for name, size in (("empty", 0), ("odd", 4097), ("deep/er/large", 3_000_001)):
        file = tree / "host" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.randbytes(size))
    (tree / "host/link").symlink_to("deep/er/large")
    host("mkfs.ext4", "-q", "-F", "-d", tree, path, f"{IMAGE_BYTES >> 10}k")
    return path


@pytest.fixture
def start(debian: Callable[[str], Debian], image: Path) -> Iterator[Callable[[str, str], Guest]]:
    """`start(version, path)` boots to a shell with the image mounted at /disk."""
    guests: list[Guest] = []

    def boot(version: str, path: str) -> Guest:
        kernel = debian(version)
        guest = Guest(kernel.kernel, kernel.initrd, image, "quiet", path=path)
        guests.append(guest)
        guest.expect("# ")
        disk = "/dev/sda" if path == "ide" else "/dev/vda"
        guest.ask(f"until [ -b {disk} ]; do usleep 10000; done; mkdir /disk; mount -t ext4 {disk} /disk")
        assert f"{disk} /disk ext4 rw" in guest.ask("cat /proc/mounts")
        return guest

    yield boot
    for guest in guests:
        guest.close()


def host(program: str, *words: str | Path, most: int = 0) -> str:
    """Run a program of e2fsprogs on the host; its exit status is at most `most`."""
    where = shutil.which(program, path=SYSTEM_PATH)
    if where is None:
        missing(f"{program} is missing")
    done = subprocess.run([str(where), *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode <= most, f"{program}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def sums_in_guest(guest: Guest, folder: str) -> dict[str, str]:
    """Name to MD5 of every regular file, as the guest reads them."""
    said = guest.ask(f"(cd {folder} && find . -type f | xargs md5sum)")
    return {name: checksum for checksum, name in SUM.findall(said)}


def sums_on_host(tree: Path) -> dict[str, str]:
    """The same of a folder of the host."""
    files = (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(tree)): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in files
    }


def dumped(image: Path, name: str, into: Path) -> Path:
    """A folder of the image, taken out by debugfs."""
    into.mkdir()
    host("debugfs", "-R", f"rdump /{name} {into}", image)
    return into / name


def check_tree(image: Path, name: str, sums: dict[str, str], into: Path) -> None:
    """What the guest said of its tree is what the host finds."""
    tree = dumped(image, name, into)
    assert len(sums) == FILES + 1  # a hard link is a file by each of its names
    assert sums_on_host(tree) == sums
    assert (tree / "a/b/soft").readlink() == Path("../large")
    assert not (tree / "d2/f2").exists()


@pytest.mark.parametrize(("version", "path"), [*(("6.1", path) for path in DISKS), ("6.12", "ide")])
def test_host_and_guest_read_what_the_other_wrote(
    start: Callable[[str, str], Guest], image: Path, tmp_path: Path, version: str, path: str
) -> None:
    guest = start(version, path)
    assert sums_in_guest(guest, "/disk/host") == sums_on_host(tmp_path / "tree/host")
    if path == "ide":
        assert "XFER_MW_DMA_2" in guest.ask("cat /sys/class/ata_device/dev1.0/xfer_mode")
    guest.ask("grow /disk/guest")
    sums = sums_in_guest(guest, "/disk/guest")
    guest.type("umount /disk && poweroff -f\n")
    assert guest.finish() == 0
    host("e2fsck", "-fn", image)
    check_tree(image, "guest", sums, tmp_path / "out")


@pytest.mark.parametrize("path", DISKS)
def test_nothing_synced_is_lost_when_the_emulator_is_killed(
    start: Callable[[str, str], Guest], image: Path, tmp_path: Path, path: str
) -> None:
    """The guest is writing more, and committing it, when the process dies."""
    guest = start("6.1", path)
    guest.ask("grow /disk/guest")
    sums = sums_in_guest(guest, "/disk/guest")
    assert "synced" in guest.ask("sync && echo syn''ced")
    guest.type("i=0; while :; do i=$((i+1)); head -c 70001 /dev/urandom > /disk/n$i; echo n-$i; sync; done\n")
    guest.expect("n-4")
    guest.close()
    copy = tmp_path / "copy.img"
    shutil.copyfile(image, copy)
    host("e2fsck", "-fy", copy, most=1)  # 1: it has replayed the journal
    check_tree(copy, "guest", sums, tmp_path / "out")
    again = start("6.1", path)
    assert sums_in_guest(again, "/disk/guest") == sums
    again.type("umount /disk && poweroff -f\n")
    assert again.finish() == 0
    host("e2fsck", "-fn", image)
