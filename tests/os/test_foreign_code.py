"""Linux runs code from a disk that another process reads into its memory, page after page at one address.

Debian's kernels zero each page that they give out, which makes the CPU see a store; `init_on_alloc=0` leaves
the back-end as the only one who writes. Without the watch a third of the calls run what the page held before.
"""

import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.os.debian import KERNELS, SHELL, Debian
from tests.os.guest import LIMIT_S, Console

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

EMU = (sys.executable, "-m", "emu")
RECODE = Path(__file__).parent / "programs/built/recode.elf"
PAGES = 4096


def page(number: int) -> bytes:
    """Code that gives `number`, and the halves of what crosses into and out of the page (recode/main.c)."""
    low = struct.pack("<H", number)
    whole = b"\xb8" + struct.pack("<I", number) + b"\xc3"
    return (low + b"\xc3").ljust(16, b"\0") + whole.ljust(4093 - 16, b"\0") + b"\xb8" + low


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """Where `emu serve vhost-user-blk` offers a disk of such pages."""
    disk, path = tmp_path / "disk.img", tmp_path / "s"
    disk.write_bytes(b"".join(page(number) for number in range(PAGES)))
    words = ["serve", "vhost-user-blk", "--socket", str(path), "--drive", f"file={disk},format=raw"]
    with subprocess.Popen([*EMU, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on {path}\n"
        yield path
        process.send_signal(signal.SIGTERM)


def boot(debian: Debian, socket: Path, *flags: str) -> Console:
    """A guest with little memory, at its shell, the disk there."""
    words = ["-m", "96", "-kernel", debian.kernel, "-initrd", debian.initrd, "-no-reboot", "-nic", "none"]
    words += [
        "-append",
        "console=ttyS0 quiet panic=-1 init_on_alloc=0",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]
    words += ["-chardev", f"socket,id=c,path={socket}", "-device", "vhost-user-blk-pci,chardev=c"]
    console = Console([*EMU, "run", *words, *flags])
    console.expect("# ")
    console.ask("until [ -b /dev/vda ]; do usleep 10000; done")
    return console


def wrong_calls(console: Console, rounds: int, seed: int) -> int:
    """What recode counts."""
    said = console.ask(f"recode /dev/vda {PAGES} {rounds} {seed}")
    found = re.search(rf"recode: {rounds} rounds, (\d+) wrong", said)
    assert found is not None, said
    return int(found[1])


@pytest.fixture(params=list(KERNELS))
def debian(request: pytest.FixtureRequest) -> Debian:
    return Debian(request.param, init=SHELL, files={"bin/recode": RECODE.read_bytes()})


def test_code_that_a_back_end_read_into_used_pages_is_the_one_that_runs(debian: Debian, socket: Path) -> None:
    console = boot(debian, socket, "-timeout", str(LIMIT_S))
    try:
        assert wrong_calls(console, 1000, 1) == 0
    finally:
        console.close()


@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_many_rounds_of_it(debian: Debian, socket: Path) -> None:
    console = boot(debian, socket, "-timeout", "900")
    try:
        for seed in range(10):
            assert wrong_calls(console, 2000, seed) == 0
    finally:
        console.close()
