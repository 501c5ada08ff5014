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
from emu.compare.budgets import budgets_of
from emu.compare.fleet import measure_all_at_once
from emu.compare.machines import DISK_PATHS, NET_PATHS, SERVED, paths_of
from emu.compare.measure import Row, measure
from emu.compare.workloads import NET_OPS, OPS, Features, Medium, PatternDisk, PatternFrames, Workload
from emu.config import Outcome
from emu.devices.net.echo import EchoPort
from emu.devices.net.types import Buffers, Offload
from emu.errors import ConfigError
from emu.machine import Machine

THREADED = ("virtio-iothread", "vhost")
EMU = (sys.executable, "-m", "emu")


def medium(work: Workload, folder: Path, guest: int = 0) -> Medium:
    return PatternFrames(work) if work.nets else PatternDisk(str(folder / f"disk-{guest}"), work)


def row(path: str, work: Workload, folder: Path) -> Row:
    return measure(path, work, medium(work, folder), resolve("iobench"))


def assert_right(found: Row) -> None:
    assert (found.problem, found.misses) == ("", [])


def compared(*words: str) -> dict[str, dict[str, object]]:
    out = StringIO()
    assert run([*words, "--json", "-"], out) == 0
    return {found["path"]: found for found in json.loads(out.getvalue())["paths"]}


# ---- counts against budgets -----------------------------------------------------------------------


def test_the_paths_that_are_listed_as_ready_are_those_that_can_be_compared() -> None:
    ready = {path.name for path in PATHS if not path.missing}
    assert ready == {*DISK_PATHS, *NET_PATHS}
    assert all(tuple(budgets_of(op)) == paths_of(op) for op in OPS)


EVERY = [(op, path) for op in OPS for path in paths_of(op)]


@pytest.mark.parametrize(("op", "path"), EVERY)
def test_a_path_is_verified_and_keeps_its_budget(op: str, path: str, tmp_path: Path) -> None:
    assert_right(row(path, Workload(op, 4096, 1, 100), tmp_path))


@pytest.mark.parametrize("op", NET_OPS)
@pytest.mark.parametrize("path", ["e1000", "virtio"])
@pytest.mark.parametrize(("bs", "qd"), [(64, 1), (8192, 8), (320, 64), (4096, 65), (64, 200), (64, 256)])
def test_a_card_on_the_vcpus_thread_equals_its_formula(
    op: str, path: str, bs: int, qd: int, tmp_path: Path
) -> None:
    found = row(path, Workload(op, bs, qd, 517), tmp_path)
    assert_right(found)
    deep = path == "e1000" and qd > 64 and op == "net-rr"
    assert all(allowed.exact for allowed in found.budget) == (not deep)


@pytest.mark.parametrize("op", NET_OPS)
def test_a_card_without_the_event_index_equals_its_formula(op: str, tmp_path: Path) -> None:
    assert_right(row("virtio", Workload(op, 4096, 8, 500, Features(event_idx=False)), tmp_path))


@pytest.mark.parametrize(
    ("path", "qd"),
    [*((path, qd) for path in THREADED for qd in (2, 32, 256)), *((path, 32) for path in SERVED)],
)
@pytest.mark.parametrize("op", NET_OPS)
def test_a_card_that_is_served_elsewhere_keeps_its_bounds(
    path: str, op: str, qd: int, tmp_path: Path
) -> None:
    assert_right(row(path, Workload(op, 1024, qd, 1000), tmp_path))


@pytest.mark.parametrize("op", ["read", "net-rr"])
def test_a_back_end_that_polls_is_hardly_rung_for(op: str, tmp_path: Path) -> None:
    found = row("vhost-user-poll", Workload(op, 4096, 8, 500), tmp_path)
    assert_right(found)
    assert found.counts.light_exits <= 0.1 * found.work.count


# ---- several guests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "path"), [("write", "vhost-user"), ("net-rr", "vhost-user-poll"), ("net-stream", "e1000")]
)
def test_several_guests_at_once_are_verified_each_and_keep_their_budgets_together(
    op: str, path: str, tmp_path: Path
) -> None:
    work = Workload(op, 4096, 4, 200)
    media = [medium(work, tmp_path, guest) for guest in range(3)]
    found = measure_all_at_once(path, work, media, resolve("iobench"))
    assert_right(found)
    assert found.requests == 600
    assert len(found.guests) == 3
    assert found.counts.bytes_copied == 3 * row(path, work, tmp_path).counts.bytes_copied
    assert all(0 < share.elapsed_ns <= found.elapsed_ns for share in found.guests)


def test_one_guest_of_several_with_a_wrong_disk_is_named(tmp_path: Path) -> None:
    work = Workload("read", 4096, 1, 20)
    media = [medium(work, tmp_path, guest) for guest in range(2)]
    with (tmp_path / "disk-1").open("r+b") as file:
        file.write(b"wrong")
    found = measure_all_at_once("vhost-user", work, media, resolve("iobench"))
    assert not found.verified
    assert found.problem.startswith("guest 1: 1 requests with wrong data: request=0")


def test_a_guest_of_several_that_never_gets_there_stops_nobody(tmp_path: Path) -> None:
    work = Workload("net-rr", 64, 1, 1)
    found = measure_all_at_once("virtio", work, [PatternFrames(work)] * 2, resolve("hello"))
    assert found.problem.startswith("guest 0: the guest gave 0 results")


def test_a_machine_that_the_host_cannot_have_is_one_line(tmp_path: Path) -> None:
    work = Workload("net-rr", 64, 1, 1)
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        measure_all_at_once("virtio", work, [PatternFrames(work)] * 2, str(tmp_path / "none.elf"))
    assert "\n" not in str(caught.value)


def test_a_signal_ends_all_guests_and_their_back_end(tmp_path: Path) -> None:
    words = [*EMU, "compare", "--paths", "vhost-user", "--count", "1000000", "--vms", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 30
        while len(children(process.pid)) < 3 and time.monotonic() < deadline:
            os.sched_yield()
        family = children(process.pid)
        process.send_signal(signal.SIGTERM)
        shown = process.communicate(timeout=60)[1]
    assert len(family) == 3
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in shown
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(("op", "bs"), [("read", 512), ("write", 8704), ("read", 135168)])
@pytest.mark.parametrize(
    "features", [Features(), Features(multiple=1), Features(lba48=True), Features(pio=32)]
)
def test_ide_equals_its_formula(op: str, bs: int, features: Features, tmp_path: Path) -> None:
    assert_right(row("ide-pio", Workload(op, bs, 4, 5, features), tmp_path))


@pytest.mark.parametrize("qd", [2, 8, 32, 85, 86, 256])
@pytest.mark.parametrize("features", [Features(), Features(event_idx=False)])
def test_the_inline_queue_equals_its_formula_at_any_depth(
    qd: int, features: Features, tmp_path: Path
) -> None:
    assert_right(row("virtio", Workload("read", 512, qd, 515, features), tmp_path))


@pytest.mark.parametrize("op", ["write", "randread"])
@pytest.mark.parametrize(("bs", "qd", "count"), [(512, 32, 3000), (65536, 32, 300), (2 << 20, 4, 9)])
def test_the_inline_queue_merges_neighbours_as_its_formula_says(
    op: str, bs: int, qd: int, count: int, tmp_path: Path
) -> None:
    assert_right(row("virtio", Workload(op, bs, qd, count), tmp_path))


@pytest.mark.parametrize(
    ("path", "qd"),
    [*((path, qd) for path in THREADED for qd in (2, 7, 8, 32, 256)), *((path, 32) for path in SERVED)],
)
def test_a_queue_that_is_served_elsewhere_keeps_its_bounds(path: str, qd: int, tmp_path: Path) -> None:
    assert_right(row(path, Workload("write", 4096, qd, 1500), tmp_path))


def test_the_event_index_keeps_a_deep_queue_from_ringing_for_each_request(tmp_path: Path) -> None:
    work = Workload("read", 4096, 32, 3000)
    assert row("vhost", work, tmp_path).counts.light_exits < 0.2 * work.count


@pytest.mark.parametrize("path", DISK_PATHS)
def test_one_request_alone(path: str, tmp_path: Path) -> None:
    assert_right(row(path, Workload("read", 1 << 20, 1, 1), tmp_path))


@pytest.mark.parametrize("path", NET_PATHS)
@pytest.mark.parametrize("op", NET_OPS)
def test_one_frame_alone(op: str, path: str, tmp_path: Path) -> None:
    assert_right(row(path, Workload(op, 64, 1, 1), tmp_path))


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


class Lossy(EchoPort):
    """Changes one bit of the 40th frame that it takes, or loses the frame, or sends another header back."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault, self._taken = fault, 0

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        self._taken += 1
        whole = bytearray(b"".join(frame))
        if self._taken == 40:
            if self._fault == "lost":
                return
            whole[{"bit": 777, "header": 15}[self._fault]] ^= 0x10
        super().send([memoryview(whole)], offload)


@pytest.mark.parametrize("path", ["e1000", "virtio"])
@pytest.mark.parametrize(
    ("op", "fault", "text"),
    [
        ("net-rr", "bit", "1 requests with wrong data: request="),
        ("net-rr", "header", "fail what=answer"),
        ("net-stream", "bit", "1 requests with wrong data: frames=100 of=100 bytes="),
        ("net-stream", "lost", "1 requests with wrong data: frames=99 of=100 bytes="),
    ],
)
def test_a_frame_that_is_not_as_it_was_sent_is_seen(
    op: str, path: str, fault: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.boards.net.EchoPort", lambda: Lossy(fault))
    found = row(path, Workload(op, 1024, 1, 100), tmp_path)
    assert not found.verified
    assert text in found.problem


def test_a_guest_that_never_gets_there_is_a_row_that_is_not_verified(tmp_path: Path) -> None:
    work = Workload("read", 4096, 1, 1)
    found = measure("virtio", work, PatternDisk(str(tmp_path / "disk"), work), resolve("hello"))
    assert found.problem.startswith("the guest gave 0 results")
    assert not found.verified


# ---- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["read", "net-rr"])
def test_json_has_all_paths_verified(op: str) -> None:
    rows = compared("--op", op, "--count", "50")
    assert tuple(rows) == paths_of(op)
    assert all(found["verified"] and found["misses"] == [] for found in rows.values())


def test_json_has_each_guests_share() -> None:
    out = StringIO()
    words = ["--op", "net-rr", "--count", "100", "--vms", "2", "--paths", "vhost-user,vhost-user-poll"]
    assert run([*words, "--json", "-"], out) == 0
    made = json.loads(out.getvalue())
    assert made["workload"]["vms"] == 2
    for found in made["paths"]:
        assert found["requests"] == 200
        assert [share["verified"] for share in found["guests"]] == [True, True]
        assert found["throughput"]["iops"] <= sum(share["iops"] for share in found["guests"]) + 1
    assert len(made["remarks"]) == 1


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
        (["--op", "net-rr", "--paths", "ide-pio"], '"ide-pio" does not carry net-rr; e1000, virtio,'),
        (["--paths", "e1000"], '"e1000" does not carry read; ide-pio, virtio,'),
        (["--op", "net-rr", "--bs", "96"], "multiple of 64 bytes"),
        (["--op", "net-stream", "--bs", "8256"], "8192 bytes at most"),
        (["--op", "wirte"], "the nearest is write"),
        (["--bs", "1000"], "multiple of 512"),
        (["--qd", "257"], "1 to 256 are possible"),
        (["--count", "0"], "count is a number from 1"),
        (["--bs", "1048576", "--qd", "128"], "96 MiB of guest memory"),
        (["--vms", "65"], "vms is a number from 1 to 64"),
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
        while not list(tmp_path.glob("*/pattern-0.img")) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


# ---- the system calls, against strace -------------------------------------------------------------

DATA_PATH = (
    "preadv,preadv2,pwritev,pwritev2,read,write,membarrier,epoll_wait,epoll_ctl,"
    "rt_sigqueueinfo,rt_tgsigqueueinfo"
)
TRANSFER = re.compile(r"\b(?:p(?:read|write)v2?|membarrier|epoll_(?:wait|ctl)|rt_(?:tg)?sigqueueinfo)\(")
EVENT = re.compile(r"\bwrite\(\d+, [^,]*, 8(?:\)| <unfinished)|\bread(?:\(\d+, | resumed>)[^,]*, 8\) += 8$")
"""Reads and writes of events are those of 8 bytes; a console or an image file has none."""


def traced(op: str, path: str, count: int, qd: int, folder: Path) -> tuple[int, int]:
    """The data path's system calls of a whole run: as reported, and as strace saw them."""
    log = folder / f"{path}-{count}"
    words = ["strace", "-f", "-o", str(log), "-e", f"trace={DATA_PATH}", *EMU, "compare", "--paths", path]
    words += ["--op", op, "--count", str(count), "--qd", str(qd), "--json", "-"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True).stdout
    lines = log.read_text(errors="replace").splitlines()
    seen = sum(1 for line in lines if TRANSFER.search(line) or EVENT.search(line))
    return round(json.loads(shown)["paths"][0]["per_request"]["syscalls"] * count), seen


def audited(op: str, path: str, folder: Path, qd: int = 1) -> tuple[int, int]:
    """What 1,000 requests more cost: as reported, as seen. What a run costs by itself is gone."""
    (few, few_seen), (many, many_seen) = (traced(op, path, count, qd, folder) for count in (500, 1500))
    return many - few, many_seen - few_seen


@pytest.mark.peer("strace")
@pytest.mark.parametrize(
    ("op", "path", "qd", "calls"),
    [
        ("read", "ide-pio", 1, 1000),
        ("read", "virtio", 1, 1000),
        ("read", "virtio", 20, 50),
        ("net-rr", "e1000", 1, 0),
        ("net-rr", "virtio", 1, 0),
    ],
)
def test_strace_sees_the_system_calls_that_are_reported(
    op: str, path: str, qd: int, calls: int, tmp_path: Path
) -> None:
    reported, seen = audited(op, path, tmp_path, qd)
    assert reported == calls
    assert abs(seen - reported) <= 4  # a wake-up by a timer, once or twice a second


@pytest.mark.peer("strace")
@pytest.mark.parametrize("path", THREADED)
@pytest.mark.parametrize("op", ["read", "net-rr"])
def test_strace_sees_the_system_calls_of_threads(op: str, path: str, tmp_path: Path) -> None:
    """Within 2 %: the two runs' warm-ups differ, and timers wake the halted CPU."""
    reported, seen = audited(op, path, tmp_path)
    assert seen == pytest.approx(reported, rel=0.02, abs=20)


@pytest.mark.peer("strace")
@pytest.mark.parametrize("op", ["read", "net-rr"])
def test_strace_sees_the_system_calls_of_a_back_end(op: str, tmp_path: Path) -> None:
    """Within 5 %: messages and timers are on no request's way, and strace sees them, too."""
    reported, seen = audited(op, "vhost-user", tmp_path)
    assert seen == pytest.approx(reported, rel=0.05, abs=20)
