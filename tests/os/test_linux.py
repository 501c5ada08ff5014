"""Debian's cloud kernels, unmodified, from start to power-off."""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.boot.cache import FileCache
from emu.boot.decompress import unpack, unpacked_size
from emu.boot.image_file import ImageFile
from emu.boot.linux import read_setup
from tests.os.debian import KERNELS, Debian
from tests.os.guest import Guest

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

DATA = random.Random(7).randbytes(1 << 20)
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module", params=list(KERNELS))
def debian(request: pytest.FixtureRequest) -> Debian:
    return Debian(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(DATA + bytes(1 << 20))
    return path


@pytest.fixture
def start(debian: Debian, disk: Path) -> Iterator[Callable[..., Guest]]:
    """`start(append, *flags, kernel=...)` boots this kernel."""
    guests: list[Guest] = []

    def boot(append: str = "", *flags: str, kernel: str = debian.kernel) -> Guest:
        guests.append(Guest(kernel, debian.initrd, disk, append, *flags))
        return guests[-1]

    yield boot
    for guest in guests:
        guest.close()


def test_it_boots_reads_its_disk_and_powers_off(start: Callable[..., Guest]) -> None:
    guest = start("")
    assert guest.finish() == 0
    assert f"VDA {MD5}" in guest.text
    assert "reboot: Power down" in guest.text
    for trouble in ("WARNING:", "BUG:", "Oops", "timer not connected", "irq trap"):
        assert trouble not in guest.text


def test_a_quiet_boot_has_nothing_to_complain_of(start: Callable[..., Guest]) -> None:
    """With `quiet` a kernel shows errors alone."""
    guest = start("quiet")
    guest.expect("INIT-START")
    assert guest.text.partition("INIT-START")[0].strip() == ""


@pytest.mark.parametrize("words", ["acpi=off", "noapic", "nolapic", "pci=nomsi"])
def test_it_boots_without_parts_of_the_board(start: Callable[..., Guest], words: str) -> None:
    """Without ACPI or APICs the 8259s deliver; without MSI the disk's interrupt is a wire."""
    guest = start(f"quiet {words}")
    guest.expect("INIT-END")
    assert f"VDA {MD5}" in guest.text


def test_a_plain_vmlinux_boots(start: Callable[..., Guest], debian: Debian, tmp_path: Path) -> None:
    vmlinux = tmp_path / "vmlinux"
    with ImageFile(debian.kernel) as image, vmlinux.open("wb") as file:
        setup = read_setup(image)
        unpack(image.read(setup.payload_at, setup.payload_size, "the payload"), file.write)
    guest = start("quiet", kernel=str(vmlinux))
    assert guest.finish() == 0
    assert f"VDA {MD5}" in guest.text


def test_a_reboot_starts_it_again(start: Callable[..., Guest]) -> None:
    guest = start("quiet job=reboot")
    first = guest.expect("INIT-START")
    guest.expect("INIT-START", first)


def test_a_reboot_ends_the_run_where_it_shall(start: Callable[..., Guest]) -> None:
    guest = start("quiet job=reboot", "-no-reboot")
    assert guest.finish() == 0
    assert guest.text.count("INIT-START") == 1


ROUND = """\
i=0; while [ $i -lt 60 ]; do \
[ "$(echo $i | md5sum)" = "$(echo $i | md5sum)" ] || echo WRONG; i=$((i+1)); done; \
dd if=/dev/vda bs=64k count=16 2>/dev/null > /r; gzip -c /r | gunzip -c | md5sum; \
rmmod virtio_blk && insmod /modules/virtio_blk.ko; \
until [ -b /dev/vda ]; do usleep 10000; done; dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum; \
(for j in 1 2 3; do \
(i=0; while [ $i -lt 20 ]; do echo $j$i | sha256sum; i=$((i+1)); done | md5sum) & done; wait)
"""
"""Many short processes, pipes, module unload and load, three jobs side by side; each with its checksum."""


def jobs_checksum(job: int) -> str:
    lines = (hashlib.sha256(f"{job}{i}\n".encode()).hexdigest() + "  -\n" for i in range(20))
    return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()


def play_round(guest: Guest, since: int) -> int:
    """Run ROUND in the guest's shell; check every result."""
    guest.type(ROUND.replace("\n", "") + "; echo round-$((40 + 2))\n")
    end = guest.expect("round-42", since)
    said = guest.text[since:end]
    assert said.count(MD5) == 2, said
    assert "\nWRONG" not in said
    assert all(jobs_checksum(job) in said for job in (1, 2, 3)), said
    return end


def test_processes_pipes_and_modules_come_and_go_with_right_results(start: Callable[..., Guest]) -> None:
    guest = start("quiet job=shell")
    at = guest.expect("# ")
    for _ in range(3):
        at = play_round(guest, at)


@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_ten_minutes_of_such_a_load(start: Callable[..., Guest]) -> None:
    guest = start("quiet job=shell", "-timeout", "900")
    at, end = guest.expect("# "), time.monotonic() + 600
    while time.monotonic() < end:
        at = play_round(guest, at)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_shell_answers_and_an_idle_one_takes_under_one_percent(start: Callable[..., Guest]) -> None:
    guest = start("quiet job=shell")
    guest.expect("# ")
    guest.type("echo $((6 * 7))-answer\n")
    guest.expect("# ", guest.expect("42-answer"))
    guest.type("sleep 8; echo slept-$((1 + 1))\n")
    time.sleep(2)  # the kernel's own work after boot is over
    before, since = cpu_seconds(guest.process.pid), time.monotonic()
    guest.expect("slept-2")
    assert cpu_seconds(guest.process.pid) - before < 0.01 * (time.monotonic() - since) + 0.02


def test_the_cached_kernel_is_the_one_in_the_file(debian: Debian, tmp_path: Path) -> None:
    with ImageFile(debian.kernel) as image:
        setup = read_setup(image)
        payload = image.read(setup.payload_at, setup.payload_size, "the payload")
    size = unpacked_size(payload[:8], payload[-4:], len(payload))
    fd = FileCache(tmp_path).open("k", size, lambda write: unpack(payload, write))
    assert os.fstat(fd).st_size == size
    assert os.pread(fd, 4, 0) == b"\x7fELF"
    os.close(fd)
