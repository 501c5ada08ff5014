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
