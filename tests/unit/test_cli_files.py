"""Files that a command writes, and standard files that are closed, full or gone: one line, no traceback."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emu.bus.output_file import check_output, write_output
from emu.cli.mainloop import MainLoop
from emu.cli.session import Session
from emu.config import MachineConfig, Outcome, OutcomeKind
from emu.errors import ConfigError
from tests.os.guest import Console

HELLO = str(Path(__file__).resolve().parents[2] / "guest-images/built/hello.elf")
GUEST = ("run", HELLO, "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-display", "none")
SMOKE = ("smoke", *GUEST[1:], "--expect", "hello")
NET = ("-netdev", "echo,id=n", "-device", "e1000,netdev=n")
DONE, HANG, BAD, PIPE = 33, 4, 2, 141

WRITERS: dict[str, tuple[str, ...]] = {
    "serial": (*GUEST, "-serial", "file:FILE"),
    "chardev": (*GUEST, "-chardev", "file,id=c,path=FILE", "-serial", "chardev:c"),
    "serial of smoke": (*SMOKE, "-serial", "file:FILE"),
    "exits": (*GUEST, "--exits=FILE"),
    "trace": (*GUEST, "--trace", "FILE"),
    "junit": (*SMOKE, "--junit", "FILE"),
    "dump": (*GUEST, *NET, "-object", "filter-dump,id=f,netdev=n,file=FILE"),
    "paths": ("paths", "--json", "FILE"),
    "devices": ("devices", "--json", "FILE"),
    "images": ("images", "--json", "FILE"),
    "compare": ("compare", "--paths", "ide-pio", "--count", "5", "--json", "FILE"),
    "a page of compare": ("compare", "--paths", "ide-pio", "--count", "5", "--html", "FILE"),
    "frames of serve": ("serve", "vhost-user-net", "--socket", "SOCKET", "--pcap", "FILE"),
}
DEBUGCON = (*GUEST, "-debugcon", "file:FILE")
"""It loses what does not fit; the guest goes on."""


def run(words: tuple[str, ...], folder: Path, file: str, **streams: int) -> subprocess.CompletedProcess[str]:
    given = [word.replace("FILE", file).replace("SOCKET", str(folder / "socket")) for word in words]
    return subprocess.run(
        [sys.executable, "-m", "emu", *given],
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line(shown: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert shown.returncode == BAD, shown
    assert shown.stderr.startswith("emu: ")
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.endswith("\n")
    assert all(part in shown.stderr for part in parts), shown.stderr


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told(name: str, tmp_path: Path) -> None:
    shown = run(WRITERS[name], tmp_path, "/dev/full")
    assert_one_line(shown, "/dev/full: No space left on device; make room, or choose another place")


@pytest.mark.parametrize("name", [*WRITERS, "debugcon"])
def test_a_pipe_that_nobody_reads_is_told_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    words = WRITERS.get(name, DEBUGCON)
    if name in ("exits", "trace", "junit", "compare", "a page of compare"):  # written at the end
        words = (*words, "--timeout", "20") if words[0] != "compare" else words
    shown = run(words, tmp_path, str(tmp_path / "fifo.json"))
    assert_one_line(shown, f"{tmp_path}/fifo.json: No such device or address; nobody reads that pipe")


@pytest.mark.parametrize("name", ["exits", "trace", "junit"])
def test_a_report_that_cannot_be_written_is_told_before_the_run(name: str, tmp_path: Path) -> None:
    for file, why in (("nowhere/x.json", "make its folder first"), (".", "name a file")):
        shown = run(WRITERS[name], tmp_path, str(tmp_path / file))
        assert_one_line(shown, why)
        assert shown.stdout == ""


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"kept")
    check_output(tmp_path / "old")
    check_output(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"kept"
    with pytest.raises(ConfigError, match='"": No such file'):
        check_output("")
    with pytest.raises(ConfigError, match="null byte; choose another name"):
        write_output("a\0b", b"")


def test_a_pipe_with_a_reader_gets_the_whole_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    shell = f"cat '{tmp_path}/fifo' & '{sys.executable}' -m emu paths --json '{tmp_path}/fifo'; wait"
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)  # cat may be late
    shown = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=True)
    os.close(reader)
    assert shown.stdout.rstrip().endswith("}")


STREAMS = {
    "<&-": 0, ">&-": 0, "2>&-": 0, "<&- >&- 2>&-": 0, "2>/dev/full": 0,
    ">/dev/full": BAD, "1</dev/null": BAD, "| true": PIPE,
}  # fmt: skip
COMMANDS = {
    "run": (f"run {HELLO} -display none", HANG),
    "smoke": (f"smoke {HELLO} --expect hello", 0),
    "monitor": (f"{' '.join(GUEST)} -monitor stdio -serial null", DONE),
    "exits": (f"run {HELLO} --exits -display none", HANG),
    "devices": ("devices", 0),
    "help": ("run --help", 0),
    "nonsense": ("run --nonsense", BAD),
}


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("name", COMMANDS)
def test_standard_files_may_be_closed_full_or_gone(name: str, streams: str, tmp_path: Path) -> None:
    words, status = COMMANDS[name]
    shell = f"set -o pipefail; '{sys.executable}' -m emu {words} {streams}"
    shown = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in shown.stderr
    assert "internal error" not in shown.stderr
    silent = name in ("monitor", "nonsense")  # nothing, or not much, on standard output
    allowed = {status, *({BAD, PIPE, DONE} if silent else {STREAMS[streams] or status})}
    assert shown.returncode in allowed, shown
    if shown.returncode == BAD and name != "nonsense":
        assert shown.stderr.startswith("emu: standard output: ")


def test_a_disk_does_not_become_standard_error(tmp_path: Path) -> None:
    """The first file that is opened gets the lowest free descriptor."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    words = f"run {HELLO} -hda {disk} -display none -serial null"
    shell = f"'{sys.executable}' -m emu {words} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], timeout=60, check=False).returncode == HANG
    assert disk.read_bytes() == bytes(4096)


def test_what_a_terminal_would_act_on_is_spelled_out(tmp_path: Path) -> None:
    shown = run(("run", "-kernel", "a\x1b[31m\nb\udcff"), tmp_path, "")
    assert_one_line(shown, r"a\x1b[31m\nb\udcff: cannot be read")


@pytest.mark.parametrize("flag", ["-kernel", "-initrd", "-bios", "-hda", "--trace"])
def test_an_empty_name_is_a_variable_that_is_not_set(flag: str, tmp_path: Path) -> None:
    shown = run(("run", HELLO, flag, ""), tmp_path, "")
    assert_one_line(shown, f'{flag}: "" names no file; is a variable of the shell not set?')


def test_counters_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    words = ("serve", "vhost-user-net", "--socket", "SOCKET", "--counters", "/proc/self/FILE")
    assert_one_line(run(words, tmp_path, "x"), "--counters /proc/self/x: ")


@pytest.mark.parametrize("number", ["HUP", "INT", "TERM", "QUIT"])
def test_a_server_that_is_ended_leaves_no_socket(number: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "emu", "serve", "vhost-user-net", "--socket", tmp_path / "socket"]
    console = Console(words)
    console.expect("listening on")
    console.process.send_signal(signal.Signals[f"SIG{number}"])
    assert console.finish() == 0
    console.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_ended_before_its_guest_leaves_no_socket(number: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "emu", "run", HELLO, "-serial", f"unix:{tmp_path}/s,server=on"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"emu: waiting for a connection on unix:{tmp_path}/s\n"
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


class Looking:
    """A part that looks at its machine for as long as it is allowed to."""

    pump: None = None

    def __init__(self) -> None:
        self.ticks, self.stopped_at = 0, -1

    def start(self, loop: MainLoop) -> None:
        loop.wake()

    def stop(self) -> None:
        self.stopped_at = self.ticks

    def tick(self) -> bool:
        self.ticks += 1
        return True


class Noting:
    """A sink that tells when something has come."""

    def __init__(self) -> None:
        self.heard = threading.Event()

    def write(self, data: bytes) -> None:
        self.heard.set()

    def ready(self) -> bool:
        return True


class Waiting:
    """A machine that runs until its part has looked twice."""

    def __init__(self, part: Looking) -> None:
        self._part = part

    def run(self) -> Outcome:
        deadline = time.monotonic() + 20
        while self._part.ticks < 2 and time.monotonic() < deadline:
            os.sched_yield()
        return Outcome(OutcomeKind.POWER_OFF)

    def stop(self, reason: str) -> None:
        pass

    def serial_input(self, data: bytes) -> None:
        pass

    def serial_room(self) -> int:
        return 1

    def rip_text(self) -> str:
        return ""

    def close(self) -> None:
        pass


def test_a_part_that_was_stopped_does_not_look_again() -> None:
    """The machine is closed right after: its memory is gone."""
    part, told = Looking(), Noting()
    with Session(MachineConfig(), told, None, keys=False) as session:
        session.add_part(part)
        session.run(Waiting(part))
        session.output.insert(b"the same tick hands this out")
        assert told.heard.wait(20)
    assert part.ticks == part.stopped_at


def test_too_few_descriptors_are_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    shell = (
        f"ulimit -n 10; exec '{sys.executable}' -m emu run {HELLO} {' '.join(NET)} -hda {disk} -display none"
    )
    shown = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert_one_line(shown, "Too many open files")


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a benchmark's kernel": (("bench", "boot", "-kernel", "/nowhere"), "/nowhere: cannot be read: No "),
    "a benchmark's initrd": (("bench", "boot", "-kernel", HELLO, "-initrd", "/"), "/: cannot be read: "),
    "a disc": (("run", "-cdrom", "/nowhere"), "/nowhere: no such file; give an ISO image"),
    "a pipe to wait for": (
        ("serve", "vhost-user-net", "--socket", "SOCKET", "--while-fd", "0"),
        "--while-fd 0: a file; give a pipe or a socket",
    ),
    "a server": (("run", HELLO, "-serial", "unix:SOCKET"), "start the server first, or add server=on"),
    "a place on the host": (("run", HELLO, "-chardev", "file,id=c,path="), "path= belongs to the backends"),
    "an image": (("run", ""), '"" names no IMAGE'),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_there_is_told_at_once(name: str, tmp_path: Path) -> None:
    words, said = REFUSED[name]
    assert_one_line(run(words, tmp_path, ""), said)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_for_compare_not_for_its_guests(tmp_path: Path) -> None:
    """A terminal sends it to the whole group of processes."""
    words = [
        sys.executable,
        "-m",
        "emu",
        "compare",
        "--vms",
        "2",
        "--paths",
        "virtio",
        "--count",
        "100000000",
    ]
    with subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
            os.sched_yield()
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.read() == "emu: compare: ended by SIGINT\n"
        assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []
