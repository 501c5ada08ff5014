"""Whole comparisons: every path with a real guest, its counts against its budget and against strace."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from emu.cli.compare import run
from emu.cli.images import resolve
from emu.cli.paths import PATHS
from emu.compare.budgets import BUDGETS
from emu.compare.measure import WIRING, Row, measure
from emu.compare.workloads import Features, PatternDisk, Workload
from emu.config import Outcome
from emu.errors import ConfigError
from emu.machine import Machine

ALL = ("ide-pio", "virtio", "virtio-iothread", "vhost")
THREADED = ALL[2:]
EMU = (sys.executable, "-m", "emu")


def row(path: str, work: Workload, folder: Path) -> Row:
    return measure(path, work, PatternDisk(str(folder / "disk"), work), resolve("iobench"))


def compared(*words: str) -> dict[str, dict[str, object]]:
    out = StringIO()
    assert run([*words, "--json", "-"], out) == 0
    return {found["path"]: found for found in json.loads(out.getvalue())["paths"]}


# ---- counts against budgets -----------------------------------------------------------------------


def test_the_paths_that_are_listed_as_ready_are_those_that_can_be_compared() -> None:
    ready = [path.name for path in PATHS if not path.missing]
    assert ready == list(WIRING) == list(BUDGETS) == list(ALL)


@pytest.mark.parametrize("op", ["read", "write", "randread"])
@pytest.mark.parametrize("path", ALL)
def test_a_path_is_verified_and_keeps_its_budget(path: str, op: str, tmp_path: Path) -> None:
    found = row(path, Workload(op, 4096, 1, 100), tmp_path)
    assert (found.problem, found.misses) == ("", [])


@pytest.mark.parametrize(("op", "bs"), [("read", 512), ("write", 8704), ("read", 135168)])
@pytest.mark.parametrize(
    "features", [Features(), Features(multiple=1), Features(lba48=True), Features(pio=32)]
)
def test_ide_equals_its_formula(op: str, bs: int, features: Features, tmp_path: Path) -> None:
    found = row("ide-pio", Workload(op, bs, 4, 5, features), tmp_path)
    assert (found.problem, found.misses) == ("", [])


@pytest.mark.parametrize("qd", [2, 8, 32, 85, 86, 256])
@pytest.mark.parametrize("features", [Features(), Features(event_idx=False)])
def test_the_inline_queue_equals_its_formula_at_any_depth(
    qd: int, features: Features, tmp_path: Path
) -> None:
    found = row("virtio", Workload("read", 512, qd, 515, features), tmp_path)
    assert (found.problem, found.misses) == ("", [])


@pytest.mark.parametrize("op", ["write", "randread"])
@pytest.mark.parametrize(("bs", "qd", "count"), [(512, 32, 3000), (65536, 32, 300), (2 << 20, 4, 9)])
def test_the_inline_queue_merges_neighbours_as_its_formula_says(
    op: str, bs: int, qd: int, count: int, tmp_path: Path
) -> None:
    found = row("virtio", Workload(op, bs, qd, count), tmp_path)
    assert (found.problem, found.misses) == ("", [])


@pytest.mark.parametrize("qd", [2, 7, 8, 32, 256])
@pytest.mark.parametrize("path", THREADED)
def test_a_threaded_queue_keeps_its_bounds(path: str, qd: int, tmp_path: Path) -> None:
    found = row(path, Workload("write", 4096, qd, 1500), tmp_path)
    assert (found.problem, found.misses) == ("", [])


def test_the_event_index_keeps_a_deep_queue_from_ringing_for_each_request(tmp_path: Path) -> None:
    work = Workload("read", 4096, 32, 3000)
    assert row("vhost", work, tmp_path).counts.light_exits < 0.2 * work.count


@pytest.mark.parametrize("path", ALL)
def test_one_request_alone(path: str, tmp_path: Path) -> None:
    found = row(path, Workload("read", 1 << 20, 1, 1), tmp_path)
    assert (found.problem, found.misses) == ("", [])


# ---- what must not pass ---------------------------------------------------------------------------


def test_a_wrong_byte_on_the_medium_is_seen_by_the_guest(tmp_path: Path) -> None:
    work = Workload("read", 4096, 1, 20)
    disk = PatternDisk(str(tmp_path / "disk"), work)
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(9 * 4096 + 100)
        file.write(b"wrong")
    found = measure("virtio", work, disk, resolve("iobench"))
    assert not found.verified
    assert "1 requests with wrong data: request=9 offset=36864" in found.problem


def test_a_write_that_is_lost_after_the_guest_was_told_is_seen_by_the_host(tmp_path: Path) -> None:
    work = Workload("write", 4096, 1, 20)
    disk = PatternDisk(str(tmp_path / "disk"), work)

    def run_and_lose(machine: Machine) -> Outcome:
        outcome = machine.run()
        with (tmp_path / "disk").open("r+b") as file:
            file.seek(5 * 4096)
            file.write(bytes(512))
        return outcome

    found = measure("vhost", work, disk, resolve("iobench"), run_and_lose)
    assert found.problem == f"byte {5 * 4096} of the medium is not what was to be written"


def test_a_guest_that_never_gets_there_is_a_row_that_is_not_verified(tmp_path: Path) -> None:
    work = Workload("read", 4096, 1, 1)
    found = measure("virtio", work, PatternDisk(str(tmp_path / "disk"), work), resolve("hello"))
    assert found.problem.startswith("the guest gave 0 results")
    assert not found.verified


# ---- the command ----------------------------------------------------------------------------------


def test_json_has_all_four_paths_verified() -> None:
    rows = compared("--count", "50")
    assert list(rows) == list(ALL)
    assert all(found["verified"] and found["misses"] == [] for found in rows.values())


def test_the_tables_and_the_files(tmp_path: Path) -> None:
    out = StringIO()
    html, report = tmp_path / "report.html", tmp_path / "report.json"
    words = ["--paths", "virtio,ide-pio", "--count", "10", f"--html={html}", "--json", str(report)]
    assert run(words, out) == 0
    assert out.getvalue().startswith("read, 10 requests of 4,096 bytes, 1 in flight\n")
    assert [found["path"] for found in json.loads(report.read_text())["paths"]] == ["virtio", "ide-pio"]
    assert html.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--paths", "virtoi"], "the nearest is virtio"),
        (["--paths", "vfio"], "not built yet; there is ide-pio"),
        (["--op", "net-rr"], "not built yet; there is read, write, randread"),
        (["--op", "wirte"], "the nearest is write"),
        (["--bs", "1000"], "multiple of 512"),
        (["--qd", "257"], "1 to 256 are possible"),
        (["--count", "0"], "count is a number from 1"),
        (["--bs", "1048576", "--qd", "128"], "96 MiB of guest memory"),
        (["--vms", "2"], "--vms 1 works"),
        (["disk.img"], "takes flags only"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        run(words, StringIO())
    assert "\n" not in str(caught.value)


def test_a_terminal_gets_tables_and_a_bar() -> None:
    master, terminal = pty.openpty()
    words = [*EMU, "compare", "--paths", "virtio", "--count", "5"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(words, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(master, 4096):
                shown += chunk
        except OSError:  # the other end is closed
            pass
        os.close(master)
    assert process.returncode == 0
    assert b"0/1 virtio" in shown
    assert b"\x1b[32mequal" in shown


def test_ctrl_c_ends_it_and_leaves_no_disk_behind(tmp_path: Path) -> None:
    words = [*EMU, "compare", "--paths", "ide-pio,virtio", "--count", "100000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("*/pattern.img")) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


# ---- the system calls, against strace -------------------------------------------------------------

DATA_PATH = (
    "preadv,preadv2,pwritev,pwritev2,read,write,membarrier,epoll_wait,rt_sigqueueinfo,rt_tgsigqueueinfo"
)
TRANSFER = re.compile(r"\b(?:p(?:read|write)v2?|membarrier|epoll_wait|rt_(?:tg)?sigqueueinfo)\(")
EVENT = re.compile(r"\bwrite\(\d+, [^,]*, 8(?:\)| <unfinished)|\bread(?:\(\d+, | resumed>)[^,]*, 8\) += 8$")
"""Reads and writes of events are those of 8 bytes; a console or an image file has none."""


def traced(path: str, count: int, qd: int, folder: Path) -> tuple[int, int]:
    """The data path's system calls of a whole run: as reported, and as strace saw them."""
    log = folder / f"{path}-{count}"
    words = ["strace", "-f", "-o", str(log), "-e", f"trace={DATA_PATH}", *EMU, "compare", "--paths", path]
    words += ["--count", str(count), "--qd", str(qd), "--json", "-"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True).stdout
    lines = log.read_text(errors="replace").splitlines()
    seen = sum(1 for line in lines if TRANSFER.search(line) or EVENT.search(line))
    return round(json.loads(shown)["paths"][0]["per_request"]["syscalls"] * count), seen


def audited(path: str, folder: Path, qd: int = 1) -> tuple[int, int]:
    """What 1,000 requests more cost: as reported, as seen. What a run costs by itself is gone."""
    (few, few_seen), (many, many_seen) = (traced(path, count, qd, folder) for count in (500, 1500))
    return many - few, many_seen - few_seen


@pytest.mark.peer("strace")
@pytest.mark.parametrize(
    ("path", "qd", "calls"), [("ide-pio", 1, 1000), ("virtio", 1, 1000), ("virtio", 20, 50)]
)
def test_strace_sees_the_system_calls_that_are_reported(
    path: str, qd: int, calls: int, tmp_path: Path
) -> None:
    reported, seen = audited(path, tmp_path, qd)
    assert reported == calls
    assert abs(seen - reported) <= 4  # a wake-up by a timer, once or twice a second


@pytest.mark.peer("strace")
@pytest.mark.parametrize("path", THREADED)
def test_strace_sees_the_system_calls_of_threads(path: str, tmp_path: Path) -> None:
    """Within 2 %: the two runs' warm-ups differ, and timers wake the halted CPU."""
    reported, seen = audited(path, tmp_path)
    assert seen == pytest.approx(reported, rel=0.02, abs=20)
