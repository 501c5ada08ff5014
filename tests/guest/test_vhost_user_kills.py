"""A back-end that is killed while a guest writes: the next one takes the requests up again."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emu.compare.workloads import pattern

IMAGE = Path(__file__).resolve().parents[2] / "guest-images/built/iobench.elf"
DISK_BYTES = 4 << 20
BS, QD = 4096, 32
EMU = (sys.executable, "-m", "emu")
LIMIT_S = 60


class Backend:
    """`emu serve vhost-user-blk` on one disk, killed and started again at will."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.socket = folder / "disk.img", folder / "s"
        with self.disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        words = ["serve", "vhost-user-blk", "--socket", str(self.socket)]
        words += ["--drive", f"file={self.disk},format=raw"]
        process = subprocess.Popen([*EMU, *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on {self.socket}\n"
        return process

    def kill(self) -> None:
        """As a crash does, then the next one."""
        self.process.kill()
        self._gone()
        self.process = self._start()

    def _gone(self) -> None:
        self.process.wait(LIMIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self._gone()


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    made = Backend(tmp_path)
    yield made
    made.close()


def guest(backend: Backend, generation: int, count: int) -> "subprocess.Popen[str]":
    """A guest that writes the disk over and over, and checks each request's answer."""
    words: Sequence[str] = [
        *("run", str(IMAGE), "-m", "32", "-device", "isa-debug-exit,iobase=0xf4", "-timeout", str(LIMIT_S)),
        *("-chardev", f"socket,id=c,path={backend.socket}", "-device", "vhost-user-blk-pci,chardev=c"),
        *("-append", f"path=virtio op=write bs={BS} qd={QD} count={count} gen={generation}"),
    ]
    return subprocess.Popen([*EMU, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_under_load(backend: Backend, kills: int, count: int) -> None:
    """Run guests until the back-end was killed so often; every byte of each is checked."""
    dice, generation, done = random.Random(4), 0, 0
    while done < kills:
        generation += 1
        process = guest(backend, generation, count)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("iobench: device ")
        while done < kills and process.poll() is None:
            time.sleep(dice.uniform(0.02, 0.3))
            backend.kill()
            done += 1
        out, err = process.communicate(timeout=2 * LIMIT_S)
        assert process.returncode == 33, out + err
        assert f" count={count} errors=0 " in out, out
        assert "Traceback" not in err
        expected = bytes(memoryview(pattern(DISK_BYTES // 8, generation)).cast("B"))
        assert backend.disk.read_bytes() == expected


def test_a_few_kills_lose_nothing(backend: Backend) -> None:
    kill_under_load(backend, 4, 60_000)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_nothing(backend: Backend) -> None:
    kill_under_load(backend, 100, 200_000)
