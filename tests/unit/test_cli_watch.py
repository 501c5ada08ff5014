"""`emu smoke` ends at once where the guest can do nothing more, or says so on its screen."""

import subprocess
import sys
from pathlib import Path

import pytest

from emu.testing.guest_elf import Load, build_elf, pvh_note

SEABIOS = "/usr/share/seabios/bios-256k.bin"
BASE = 0x10_0000
TIMED_OUT, HALTED, TRIPLE_FAULT, PANIC, UNBOOTABLE = 11, 12, 13, 14, 16
HOUR = "3600"
"""Never waited for."""


def smoke(*words: str | Path, limit: str = HOUR) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emu", "smoke", *words, "--timeout", limit]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def kernel(folder: Path, code: str) -> Path:
    """A PVH kernel of these 32-bit instructions."""
    path = folder / "kernel"
    path.write_bytes(build_elf([Load(BASE, bytes.fromhex(code))], entry=BASE, bits=64, notes=pvh_note(BASE)))
    return path


def boot_disk(folder: Path, code: str) -> Path:
    path = folder / "disk.img"
    path.write_bytes(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    return path


DEAD = {
    "cli; hlt": ("faf4", HALTED),
    "cli; jmp .": ("faebfe", HALTED),
    "cli; pause; jmp": ("faf390ebfc", HALTED),
    "an exception without a table for it": ("0f010d00000000 0f0b".replace(" ", ""), TRIPLE_FAULT),
}


@pytest.mark.parametrize("engine", ["auto", "public"])
@pytest.mark.parametrize("name", DEAD)
def test_a_guest_that_is_certainly_dead_is_not_waited_for(name: str, engine: str, tmp_path: Path) -> None:
    code, status = DEAD[name]
    shown = smoke(kernel(tmp_path, code), "--expect", "x", "--engine", engine)
    assert (shown.returncode, shown.stderr) == (status, "")


LIVING = {
    "cli; a loop of two instructions": "fa40ebfd",
    "jmp . with interrupts on, and a table for them": "fbebfe",
}


@pytest.mark.parametrize("name", LIVING)
def test_a_guest_that_may_live_has_until_the_time_limit(name: str, tmp_path: Path) -> None:
    assert smoke(kernel(tmp_path, LIVING[name]), "--expect", "x", limit="1").returncode == TIMED_OUT


def test_a_long_loop_with_interrupts_off_comes_to_its_end(tmp_path: Path) -> None:
    loop, say_x = "b9ffffff00 e2fe", "66baf803 b078 ee f4"  # ecx = 0xFFFFFF, loop .; out 3f8, "x"; hlt
    path = kernel(tmp_path, f"fa {loop} {say_x}".replace(" ", ""))
    assert smoke(path, "--expect", "x").returncode == 0


@pytest.mark.peer(SEABIOS)
@pytest.mark.parametrize("code", ["faf4", "faebfe"])
def test_real_mode_too(code: str, tmp_path: Path) -> None:
    assert smoke("-hda", boot_disk(tmp_path, code), "--expect", "x").returncode == HALTED


@pytest.mark.peer(SEABIOS)
@pytest.mark.parametrize("words", [(), ("-nographic",)], ids=["screen", "serial"])
def test_a_disk_that_does_not_boot_is_told_by_firmware(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    shown = smoke("-drive", f"file={path},format=raw", "--expect", "x", *words)
    assert shown.returncode == UNBOOTABLE
    assert shown.stdout.startswith('nothing to boot: "No bootable device.')
    assert "  | Boot failed: not a bootable disk\n" in shown.stdout


@pytest.mark.peer(SEABIOS)
def test_what_firmware_says_may_be_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    assert smoke("-hda", path, "-snapshot", "--expect-screen", "^No bootable device").returncode == 0


PRINT = "31c08ed8be127cb40ecd10ac84c075f7ebfe"  # ds = 0; si = 7c12; print by int 10h to the zero byte; jmp .


@pytest.mark.peer(SEABIOS)
def test_a_panic_on_the_screen_counts(tmp_path: Path) -> None:
    disk = boot_disk(tmp_path, PRINT + b"\r\npanic: no init\0".hex())
    shown = smoke("-hda", disk, "--expect", "x")
    assert (shown.returncode, shown.stdout.splitlines()[0][:34]) == (
        PANIC,
        'guest panic: "panic: no init", aft',
    )
