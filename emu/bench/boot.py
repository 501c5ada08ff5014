"""From the start of the command to the end of a guest that says one line, beside QEMU where that is.

And from there to the first guest instruction, of that guest and of a kernel that the user names.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from emu.bench.series import Ratio, in_turns, ratio
from emu.errors import EmuError

ROUNDS: Final = 9
QEMU: Final = "qemu-system-x86_64"
DONE: Final = 0x10 << 1 | 1
"""The status with which a guest image says that all is well."""
ENVIRONMENT: Final = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""As on a user's machine: the package's byte code is kept, the first run (not counted) may write it."""
BOARD: Final = (
    *("-machine", "pc", "-accel", "tcg", "-display", "none", "-serial", "stdio", "-no-reboot"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
)
"""The machine, on both."""
PHASES: Final = ("interpreter", "import", "build", "load", "run")


class Process(NamedTuple):
    """One whole process. Times in ms from its start; `first_output` is the guest's first line."""

    wall: float
    first_output: float
    peak_kib: int


class Start(NamedTuple):
    """Medians, in ms. `first` is from the process's start to the first guest instruction, with its range."""

    first: float
    low: float
    high: float
    phases: dict[str, float]
    touched_kib: int


class Boot(NamedTuple):
    """Medians. `beside` has QEMU's wall first and ours second, None where QEMU is missing."""

    ours: Process
    qemu: Process | None
    beside: Ratio | None
    start: Start


def flags(image: str) -> list[str]:
    """The command line that runs on both."""
    return [*BOARD, "-kernel", image]


def measure(image: str, rounds: int = ROUNDS) -> Boot:
    """Boot the ELF file `image` again and again. Raises EmuError where a run ends wrong."""
    commands = [[*emu_command(), "run", *flags(image)]]
    if shutil.which(QEMU) is not None:
        commands.append([QEMU, *flags(image)])
    for command in commands:
        spawn(command)
    seen: list[list[Process]] = [[] for _ in commands]
    in_turns(
        [_keeping(command, found) for command, found in zip(commands, seen, strict=True)],
        rounds,
    )
    ours, *others = seen
    start = _start(flags(image), "", DONE, rounds)
    qemu = others[0] if others else None
    beside = ratio([p.wall for p in qemu], [p.wall for p in ours]) if qemu is not None else None
    return Boot(_medians(ours), _medians(qemu) if qemu is not None else None, beside, start)


def emu_command() -> list[str]:
    """The installed command beside this interpreter, or the package itself."""
    command = Path(sys.executable).with_name("emu")
    return [str(command)] if command.is_file() else [sys.executable, "-m", "emu"]


def _keeping(command: Sequence[str], found: list[Process]) -> Callable[[], float]:
    def measure() -> float:
        found.append(spawn(command))
        return found[-1].wall

    return measure


def spawn(command: Sequence[str]) -> Process:
    """Run one guest to its end. Raises EmuError where its status is not DONE."""
    began = time.monotonic_ns()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=pipe, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 4096)
        first = time.monotonic_ns()
        while os.read(process.stdout.fileno(), 65536):
            pass
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic_ns()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != DONE:
        raise EmuError(f"{' '.join(command)}: exit status {process.returncode}, {DONE} was expected")
    return Process((ended - began) / 1e6, (first - began) / 1e6, usage.ru_maxrss)


def _medians(runs: Sequence[Process]) -> Process:
    return Process(
        median(run.wall for run in runs),
        median(run.first_output for run in runs),
        max(run.peak_kib for run in runs),
    )


def measure_start(kernel: str, initrd: str | None, rounds: int = ROUNDS) -> Start:
    """Start `kernel` again and again up to its first instruction. Raises EmuError where that fails.

    The first start, which unpacks the kernel and keeps it, is not counted.
    """
    words = ["-m", "512M", "-display", "none", "-serial", "null", "-kernel", kernel]
    if initrd is not None:
        words += ["-initrd", initrd]
    _phases(words, "+", 0)
    return _start(words, "+", 0, rounds)


def _start(words: Sequence[str], until: str, status: int, rounds: int) -> Start:
    """The medians of `emu.bench.phases`, each run in a process of its own."""
    seen = [_phases(words, until, status) for _ in range(rounds)]
    phases = {name: median(stamps[name] for stamps, _ in seen) for name in PHASES}
    firsts = sorted(sum(stamps[name] for name in PHASES[:-1]) for stamps, _ in seen)
    return Start(median(firsts), firsts[0], firsts[-1], phases, max(touched for _, touched in seen))


def _phases(words: Sequence[str], until: str, status: int) -> tuple[dict[str, float], int]:
    """One run's phases in ms, and the guest RAM touched in KiB."""
    began = f"{time.monotonic_ns()}{until}"
    command = [sys.executable, "-m", "emu.bench.phases", began, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    last = done.stderr.strip().splitlines()[-1:]
    if done.returncode != status or not last:
        raise EmuError(f"{' '.join(words)}: {''.join(last) or f'exit status {done.returncode}'}")
    found = json.loads(last[0])
    return found["stamps"], found["touched_kib"]
