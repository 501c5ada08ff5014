"""`emu smoke` on Debian's kernels: a verdict for each way to end, as soon as it is certain."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.os.debian import Debian

pytestmark = [pytest.mark.os, pytest.mark.timeout(180)]

MATCHED, REJECTED, TIMED_OUT, HALTED, TRIPLE_FAULT, PANIC, EARLY = 0, 10, 11, 12, 13, 14, 15
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox --install -s
mount -t proc proc /proc
for word in $(cat /proc/cmdline); do case $word in job=*) job=${word#job=};; esac; done
[ "$job" = good ] && echo "GOOD-$((40 + 2))" && sleep 15 && echo LATER-LINE
[ "$job" = bad ] && echo "BAD-$((40 + 2))" && sleep 15 && echo LATER-LINE
[ "$job" = hang ] && sleep 3600
[ "$job" = halt ] && halt -f
[ "$job" = off ] && poweroff -f
[ "$job" = reboot ] && reboot -f
exit 3
"""
HOUR = "3600"
"""Never waited for."""


@pytest.fixture(scope="module")
def debian() -> Debian:
    return Debian("6.1", (), INIT)


def smoke(
    debian: Debian, append: str, *words: str | Path, limit: str = HOUR
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emu", "smoke", "-m", "256M", "-kernel", debian.kernel]
    command += ["-initrd", debian.initrd, "-append", f"console=ttyS0 {append}", "-no-reboot"]
    command += ["--expect", r"^GOOD-\d+$", "--reject", "BAD-", *map(str, words), "--timeout", limit]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("job", "status"), [("good", MATCHED), ("bad", REJECTED)])
def test_it_ends_by_the_line_that_decides_while_the_guest_goes_on(
    debian: Debian, job: str, status: int, tmp_path: Path
) -> None:
    """The guest prints another line after 15 s."""
    log = tmp_path / "serial.log"
    shown = smoke(debian, f"quiet job={job}", "-serial", f"file:{log}")
    assert shown.returncode == status, shown.stdout
    assert f'"{job.upper()}-' in shown.stdout.splitlines()[0]
    assert "LATER-LINE" not in log.read_text()


FATES = {
    "init ends": ("job=none", PANIC, 'guest panic: "Kernel panic - not syncing: Attempted to kill init!'),
    "init ends, reset": ("job=none panic=-1", PANIC, 'guest panic: "Kernel panic - not syncing: Attempted'),
    "no init": ("rdinit=/none init=/none panic=0", PANIC, 'guest panic: "Kernel panic - not syncing: '),
    "halt": ("job=halt", HALTED, "guest halted with interrupts off, after"),
    "triple fault": ("job=reboot reboot=triple", TRIPLE_FAULT, "triple fault, after"),
    "power-off": ("job=off", EARLY, "ended early: power-off, after"),
    "reset": ("job=reboot", EARLY, "ended early: reset, after"),
}


@pytest.mark.parametrize("fate", FATES)
def test_a_certain_end_is_not_waited_for(debian: Debian, fate: str) -> None:
    append, status, line = FATES[fate]
    shown = smoke(debian, f"quiet {append}")
    assert (shown.returncode, shown.stderr) == (status, ""), shown.stdout
    assert shown.stdout.startswith(line)


def test_a_guest_that_only_hangs_has_until_the_time_limit(debian: Debian) -> None:
    shown = smoke(debian, "quiet job=hang", limit="4")
    assert shown.returncode == TIMED_OUT, shown.stdout
    assert shown.stdout.startswith("timed out, after ")


def test_a_file_that_is_no_kernel_is_a_bad_command_line(debian: Debian, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(Path(debian.kernel).read_bytes()[: 1 << 20])
    shown = smoke(debian, "quiet", "-kernel", path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "truncated: the compressed kernel ends at byte" in shown.stderr
    assert shown.stderr.count("\n") == 1
