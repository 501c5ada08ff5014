"""Linux on disks that the host refuses to write: EIO for the program that wrote, and nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.os.debian import Debian
from tests.os.guest import LIMIT_S, Console

pytestmark = [pytest.mark.os, pytest.mark.timeout(180)]

MIB = 1 << 20
RAM, LIMIT, SIZE = 128, 192, 256
"""MiB: of the guest, that a file of the emulator may have, of each disk."""
PLANES = {"vda": "", "vdb": ",iothread=t", "vdc": ",vhost=on"}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Console]:
    """A shell in Linux with a disk on each data plane, of a process with a limit of file size."""
    debian = Debian("6.1")
    words = [sys.executable, "-m", "emu", "run", "-m", f"{RAM}M", "-kernel", debian.kernel]
    words += ["-initrd", debian.initrd, "-append", "console=ttyS0 quiet panic=-1 job=shell"]
    words += ["-object", "iothread,id=t", "-nographic", "-timeout", str(LIMIT_S)]
    for name, where in PLANES.items():
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(SIZE * MIB)
        words += ["-drive", f"file={path},format=raw,if=none,id={name}"]
        words += ["-device", f"virtio-blk-pci,drive={name}{where}"]
    console = Console(["sh", "-c", f'ulimit -f {LIMIT * MIB // 512} && exec "$@"', "sh", *words])
    yield console
    console.close()


def test_a_write_that_the_host_refuses_is_eio_and_the_disk_stays_in_use(guest: Console) -> None:
    at = guest.expect("# ")
    for name in PLANES:
        refused = f"dd if=/dev/zero of=/dev/{name} bs=1M count=1 seek={LIMIT + 8} oflag=direct"
        taken = f"dd if=/bin/busybox of=/dev/{name} bs=64k count=8 oflag=direct"
        back = f"cmp -n 524288 /bin/busybox /dev/{name}"
        guest.type(f"{refused}; {taken} && {back} && echo right-$((40 + 2))\n")
        end = guest.expect("right-42", at)
        assert f"dd: error writing '/dev/{name}': Input/output error" in guest.text[at:end]
        at = end
    guest.type("poweroff -f\n")
    assert guest.finish() == 0
