"""Guest user space under load: processes, modules, a compiler, rewritten code; each result is checked.

`churn` (programs/churn) runs on the host's processor too: the guest must print the same checksums.
The compiler is Debian's tcc: in the guest it must write the object files that it writes on the host.
"""

import hashlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.boot.cache import cache_folder
from tests.os.debian import KERNELS, Debian
from tests.os.guest import Guest
from tests.os.programs.compiler import Compiler, make_source

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

CHURN = Path(__file__).parent / "programs/built/churn.elf"
CHURNS = {
    "two-mappings": 40,
    "two-threads": 400,
    "own-code": 400,
    "protection": 60,
    "recycled": 40,
    "signals": 40,
    "floats": 40,
}
"""What churn does in one round, and how often."""
SOURCES = {name: make_source(ord(name)) for name in "ab"}
DATA = random.Random(7).randbytes(1 << 20)

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /sbin /usr/sbin /tmp
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
tar -xf /tools.tar -C / && rm /tools.tar
while read -r module; do insmod "/modules/$module"; done < /modules/order
until [ -b /dev/vda ]; do usleep 10000; done
exec setsid cttyhack sh
"""
ROUND = """\
#!/bin/sh
# round SEED
i=0; while [ $i -lt 40 ]; do
  [ "$(echo $i | md5sum)" = "$(echo $i | md5sum)" ] || echo WRONG; i=$((i+1)); done
dd if=/dev/vda bs=64k count=16 2>/dev/null > /tmp/r; gzip -c /tmp/r | gunzip -c | md5sum
for j in 1 2 3; do
  (i=0; while [ $i -lt 20 ]; do echo $j$i | sha256sum; i=$((i+1)); done | md5sum) & done; wait
for j in a b; do (
  tcc -c -o /tmp/$j.o /$j.c && md5sum < /tmp/$j.o
  tcc -o /tmp/$j /$j.c && /tmp/$j "$1"
  tcc -run /$j.c "$1"
) & done; wait
while read -r what rounds; do churn "$what" "$1" "$rounds" & done < /churns; wait
rmmod virtio_blk && insmod /modules/virtio_blk.ko
until [ -b /dev/vda ]; do usleep 10000; done
dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum
echo "round $1 ends"
"""
"""Many short processes, pipes, jobs side by side, compilers, churn, module unload and load."""


def md5_line(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest() + "  -"


def jobs_line(job: int) -> str:
    lines = (hashlib.sha256(f"{job}{i}\n".encode()).hexdigest() + "  -\n" for i in range(20))
    return md5_line("".join(lines).encode())


def churn_line(what: str, seed: int) -> str:
    """What the host's processor makes of it."""
    words: list[str | Path] = [CHURN, what, str(seed), str(CHURNS[what])]
    return subprocess.check_output(words, text=True, timeout=60).rstrip("\n")


class Load:
    """The machine's files, and the lines that a round must print."""

    def __init__(self, folder: Path) -> None:
        compiler = Compiler(Path(cache_folder() or "/tmp/emu") / "debian")
        self.files = {
            "tools.tar": compiler.archive(),
            "bin/round": ROUND.encode(),
            "bin/churn": CHURN.read_bytes(),
        }
        self.files["churns"] = "".join(f"{what} {rounds}\n" for what, rounds in CHURNS.items()).encode()
        self.files |= {f"{name}.c": source.text for name, source in SOURCES.items()}
        self._always = [md5_line(DATA)] * 2 + [jobs_line(job) for job in (1, 2, 3)]
        self._always += [f"{compiler.object_md5(source, folder)}  -" for source in SOURCES.values()]

    def lines(self, seed: int) -> Counter[str]:
        """What a round prints, in whatever order."""
        compiled = [f"compiled {source.run(seed)}" for source in SOURCES.values()] * 2
        return Counter(self._always + compiled + [churn_line(what, seed) for what in CHURNS])


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return Load(tmp_path_factory.mktemp("load"))


@pytest.fixture(params=list(KERNELS))
def debian(request: pytest.FixtureRequest, load: Load) -> Debian:
    return Debian(request.param, init=INIT, files=load.files)


@pytest.fixture
def start(debian: Debian, tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """`start(limit_s)` boots to a shell without a prompt."""
    guests: list[Guest] = []
    disk = tmp_path / "disk.img"
    disk.write_bytes(DATA)

    def boot(limit_s: int = 120) -> Guest:
        guest = Guest(debian.kernel, debian.initrd, disk, "quiet", "-timeout", str(limit_s))
        guests.append(guest)
        guest.expect("# ")
        guest.type("stty -echo; PS1=; echo ready-$((40 + 2))\n")
        guest.expect("ready-42\r\n")
        return guest

    yield boot
    for guest in guests:
        guest.close()


def play_round(guest: Guest, load: Load, seed: int) -> None:
    """Each line that must come comes as often as it must, and nothing else does."""
    since = len(guest.text)
    guest.type(f"round {seed} 2>&1\n")
    end = guest.expect(f"round {seed} ends\r\n", since)
    said = Counter(guest.text[since:end].splitlines()[:-1])
    assert said == load.lines(seed), guest.text[since:end]


def test_processes_compilers_modules_and_changing_code_give_right_results(
    start: Callable[..., Guest], load: Load
) -> None:
    play_round(start(), load, 1)


@pytest.mark.soak
@pytest.mark.timeout(1000)
def test_ten_minutes_of_such_a_load(start: Callable[..., Guest], load: Load) -> None:
    guest = start(900)
    seed, end = 1000, time.monotonic() + 600
    while time.monotonic() < end:
        play_round(guest, load, seed)
        seed += 1


@pytest.mark.soak
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("version", KERNELS)
def test_twenty_of_twenty_boots(version: str, tmp_path: Path) -> None:
    """From start to init and to power-off with status 0."""
    debian, disk = Debian(version), tmp_path / "disk.img"
    disk.write_bytes(DATA)
    for _ in range(20):
        guest = Guest(debian.kernel, debian.initrd, disk, "quiet")
        try:
            assert guest.finish() == 0
            assert f"VDA {md5_line(DATA).split()[0]}" in guest.text
            assert "INIT-END" in guest.text
        finally:
            guest.close()
