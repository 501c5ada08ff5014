"""Firmware and boot loaders from Debian's packages boot by the plain command line."""

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from emu.boot.cache import cache_folder
from tests.os.debian import Debian, package
from tests.os.guest import Console

GRUB = Path("/usr/lib/grub/i386-pc")
SEABIOS = "/usr/share/seabios/bios-256k.bin"
LINUX_ROM = "/usr/share/qemu/linuxboot_dma.bin"
pytestmark = [pytest.mark.os, pytest.mark.timeout(200), pytest.mark.peer(SEABIOS)]

SECTOR = 512
FIRST_SECTOR = 2048
TABLE_AT, ENTRY_SIZE = 446, 16
GRUB_CFG = """\
serial --unit=0
terminal_input serial
terminal_output serial
set timeout=0
menuentry "Linux" {
  linux /boot/vmlinuz console=ttyS0 panic=-1 quiet
  initrd /boot/initrd
}
"""


def unpacked(pattern: str) -> Path:
    """A package's tree, kept for the next run."""
    return package(pattern, Path(cache_folder() or "/tmp/emu") / "debian")


def smoke(*words: str | Path) -> None:
    """`emu smoke` with these words matches."""
    command = [sys.executable, "-m", "emu", "smoke", *words, "--timeout", "150"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("matched: ")


@pytest.fixture(scope="module")
def linux_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system's content: /boot with GRUB's configuration, a kernel and its initramfs."""
    debian = Debian("6.12")
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot/grub").mkdir(parents=True)
    shutil.copy(debian.kernel, tree / "boot/vmlinuz")
    shutil.copy(debian.initrd, tree / "boot/initrd")
    (tree / "boot/grub/grub.cfg").write_text(GRUB_CFG)
    return tree


@pytest.fixture(scope="module")
def grub_disk(linux_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk as grub-install leaves it: boot.img, core.img behind it, modules and files in an ext2."""
    folder = tmp_path_factory.mktemp("disk")
    tree, part, core = folder / "tree", folder / "part.img", folder / "core.img"
    shutil.copytree(linux_tree, tree)
    shutil.copytree(GRUB, tree / "boot/grub/i386-pc")
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", tree, part, "64M"], check=True)
    where = ["-p", "(hd0,msdos1)/boot/grub", "biosdisk", "part_msdos", "ext2"]
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-o", core, *where], check=True)
    boot = bytearray((GRUB / "boot.img").read_bytes())
    boot[TABLE_AT : TABLE_AT + 4 * ENTRY_SIZE] = bytes(4 * ENTRY_SIZE)
    size = part.stat().st_size // SECTOR
    struct.pack_into("<BxxxBxxxII", boot, TABLE_AT, 0x80, 0x83, FIRST_SECTOR, size)
    head = bytes(boot) + core.read_bytes()
    assert len(head) <= FIRST_SECTOR * SECTOR
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.write(head.ljust(FIRST_SECTOR * SECTOR, b"\0"))
        file.write(part.read_bytes())
    return disk


@pytest.mark.peer("grub-mkimage", "mke2fs", str(GRUB / "boot.img"))
@pytest.mark.parametrize("interface", ["ide", "virtio"])
def test_seabios_and_grub_boot_linux_from_a_disk(grub_disk: Path, interface: str) -> None:
    drive = f"file={grub_disk},format=raw,if={interface}"
    smoke("-m", "256", "-drive", drive, "-snapshot", "-nographic", "--expect", r"INIT-START 6\.12")


@pytest.mark.peer("grub-mkrescue", "xorriso", str(GRUB / "boot.img"))
def test_grub_boots_linux_from_a_cd_rom(linux_tree: Path, tmp_path: Path) -> None:
    iso = tmp_path / "grub.iso"
    modules = "--install-modules=linux normal serial iso9660 biosdisk"
    words = ["grub-mkrescue", "-d", GRUB, modules, "--fonts=", "--locales=", "--themes="]
    subprocess.run([*words, "-o", iso, linux_tree], check=True, capture_output=True)
    smoke("-m", "256", "-cdrom", iso, "-nographic", "--expect", r"INIT-START 6\.12")


MEMTEST = r"Test #\d+ +\[[^@]*Status: Testing[^@]*Pass: +0 +Errors: 0$"
"""Its screen while the first pass runs without an error."""


def test_memtest86_starts_its_first_pass() -> None:
    tree = unpacked(r"^memtest86\+$")
    smoke("-m", "16", "-kernel", tree / "boot/memtest86+x64.bin", "--expect-screen", MEMTEST)


def test_memtest86_boots_from_its_cd_rom_too() -> None:
    tree = unpacked(r"^memtest86\+$")
    iso = tree / "usr/lib/memtest86+/memtest86+x64.iso"
    smoke("-m", "16", "-cdrom", iso, "--expect-screen", MEMTEST)


@pytest.mark.peer(LINUX_ROM)
def test_ipxe_comes_to_its_prompt() -> None:
    kernel = unpacked("^ipxe$") / "boot/ipxe.lkrn"
    smoke("-m", "32", "-kernel", kernel, "-append", "shell", "--expect-screen", "^iPXE>")


def u_boot_says(command: list[str], rom: Path) -> str:
    """COM1 up to U-Boot's prompt, without the CPU's name."""
    words = ["-machine", "pc", "-m", "64", "-bios", str(rom), "-display", "none", "-vga", "none"]
    console = Console([*command, *words, "-nodefaults", "-serial", "stdio"])
    try:
        end = console.expect("\n=> ")
        return re.sub(r"(?m)^CPU: .*$", "CPU:", console.text[:end])
    finally:
        console.close()


@pytest.mark.peer("qemu-system-x86_64")
@pytest.mark.parametrize("build", ["qemu-x86", "qemu-x86_64"])
def test_u_boot_says_what_it_says_on_qemu(build: str) -> None:
    rom = unpacked("^u-boot-qemu$") / f"usr/lib/u-boot/{build}/u-boot.rom"
    ours = u_boot_says([sys.executable, "-m", "emu", "run"], rom)
    assert "Model: QEMU x86 (I440FX)" in ours
    assert ours == u_boot_says(["qemu-system-x86_64"], rom)
