"""The console: its keys, its batches, its terminal, and how a run ends from outside."""

import errno
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.escapes import EscapeKeys, Key
from emu.cli.mainloop import MainLoop
from emu.cli.output import BATCH, FileSink, SerialOutput
from emu.cli.terminal import LFLAG, RawTerminal

LIMIT_S = 20.0


class Recorder:
    """A sink that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.can_take = True

    def write(self, data: bytes) -> None:
        self.batches.append(data)

    def ready(self) -> bool:
        return self.can_take


@pytest.mark.parametrize(
    ("typed", "events"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x03", [b"\x03"]),
        (b"a\x01xb", [b"a", Key.QUIT, b"b"]),
        (b"\x01X", [Key.QUIT]),
        (b"\x01h\x01?", [Key.HELP, Key.HELP]),
        (b"\x01c", [Key.MONITOR]),
        (b"a\x01\x01b", [b"a\x01b"]),
        (b"a\x01zb", [b"ab"]),
        (b"\x01", []),
    ],
)
def test_ctrl_a_keys_are_the_emulators_the_rest_is_the_guests(
    typed: bytes, events: list[bytes | Key]
) -> None:
    assert EscapeKeys().feed(typed) == events


@given(st.binary(max_size=30), st.integers(0, 30))
def test_keys_do_not_care_how_bytes_arrive(typed: bytes, cut: int) -> None:
    def flat(events: list[bytes | Key]) -> list[int | Key]:
        return [item for event in events for item in (event if isinstance(event, bytes) else [event])]

    keys = EscapeKeys()
    assert flat(keys.feed(typed[:cut]) + keys.feed(typed[cut:])) == flat(EscapeKeys().feed(typed))


def test_a_line_goes_out_as_one_batch() -> None:
    sink, wakes = Recorder(), []
    output = SerialOutput(sink, lambda: wakes.append(1))
    for byte in b"hello\nwor":
        output.write(bytes((byte,)))
    assert sink.batches == [b"hello\n"]
    assert output.tick()
    assert sink.batches == [b"hello\n", b"wor"]
    assert wakes == [1]


def test_ticks_end_when_nothing_comes_and_begin_again_by_a_wake() -> None:
    sink, wakes = Recorder(), []
    output = SerialOutput(sink, lambda: wakes.append(1))
    output.write(b"a")
    assert [output.tick(), output.tick(), output.tick()] == [True, True, False]
    output.write(b"b")
    assert wakes == [1, 1]


def test_a_tick_waits_for_no_slow_reader() -> None:
    sink = Recorder()
    output = SerialOutput(sink, lambda: None)
    output.write(b"a")
    sink.can_take = False
    assert output.tick()
    assert sink.batches == []
    output.flush()
    assert sink.batches == [b"a"]


def test_a_guest_without_newlines_fills_bounded_batches() -> None:
    sink = Recorder()
    output = SerialOutput(sink, lambda: None)
    for _ in range(3 * BATCH):
        output.write(b"x")
    assert [len(batch) for batch in sink.batches] == [BATCH] * 3


def test_a_closed_pipe_is_told_once_and_then_forgotten() -> None:
    reader, writer = os.pipe()
    sink, told = FileSink(writer), []
    sink.on_broken = lambda: told.append(1)
    sink.write(b"a\n")
    os.close(reader)
    sink.write(b"b\n")
    sink.write(b"c\n")
    assert told == [1]
    sink.close()
    os.close(writer)


def test_a_cancelled_sink_waits_for_no_reader() -> None:
    reader, writer = os.pipe()
    sink = FileSink(writer)
    thread = threading.Thread(target=sink.write, args=(b"x" * (1 << 20),))
    thread.start()
    sink.cancel()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    sink.close()
    os.close(reader)
    os.close(writer)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_the_terminal_is_raw_inside_and_as_before_outside(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    raw = RawTerminal(slave, keep_signals=False)
    raw.enter()
    inside = termios.tcgetattr(slave)[LFLAG]
    assert not inside & (termios.ECHO | termios.ICANON | termios.ISIG)
    raw.restore()
    raw.restore()
    assert termios.tcgetattr(slave) == before


def test_plain_stdio_keeps_the_keys_that_send_signals(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    raw = RawTerminal(slave, keep_signals=True)
    raw.enter()
    assert termios.tcgetattr(slave)[LFLAG] & termios.ISIG
    raw.restore()


def test_the_main_loop_tells_what_a_callback_raised() -> None:
    reader, writer = os.pipe()
    failed = threading.Event()

    def on_readable() -> None:
        raise OSError(errno.EIO, "broken")

    loop = MainLoop(lambda: False)
    loop.on_error = failed.set
    loop.watch(reader, on_readable)
    loop.start()
    os.write(writer, b"x")
    assert failed.wait(LIMIT_S)
    with pytest.raises(OSError, match="broken"):
        loop.close()
    os.close(reader)
    os.close(writer)


def test_a_deadline_is_called_once() -> None:
    called = threading.Event()
    loop = MainLoop(lambda: False, 0.001, called.set)
    loop.start()
    assert called.wait(LIMIT_S)
    loop.close()


GUEST = '''
"""A machine that echoes what it is sent; "q" powers off, "h" halts, "s" stays deaf."""
import fcntl, os, queue, sys, termios, time
from emu.cli.chardev import CharDevice, FdSource
from emu.cli.output import FileSink
from emu.cli.run import connect, exit_status, report
from emu.cli.session import Session
from emu.config import MachineConfig, Outcome, OutcomeKind

class Echo:
    def __init__(self, out): self.out, self.inbox = out, queue.SimpleQueue()
    def stop(self, reason): self.inbox.put(None)
    def serial_room(self):
        return 1

    def serial_input(self, data): self.inbox.put(data)
    def rip_text(self): return "0x1000"
    def close(self): pass
    def run(self):
        self.out(b"ready\\n")
        while (data := self.inbox.get()) is not None:
            self.out(data)
            if data == b"q": return Outcome(OutcomeKind.POWER_OFF)
            if data == b"h": return Outcome(OutcomeKind.HALTED)
            if data == b"s": time.sleep(600)
        return Outcome(OutcomeKind.STOPPED)

if os.isatty(0): fcntl.ioctl(0, termios.TIOCSCTTY, 0)
keys, timeout = sys.argv[1] == "keys", float(sys.argv[2]) or None
device = CharDevice(FileSink(1), FdSource(0), keys, vital=True)
with Session(MachineConfig(timeout_s=timeout), device.sink, device.source, keys=keys) as session:
    connect(session, device)
    machine = Echo(session.output.write)
    outcome = session.run(machine)
    report(session, outcome, machine.rip_text)
sys.exit(exit_status(session, outcome))
'''


class Running:
    """The echo machine in a process of its own, on a terminal of its own."""

    def __init__(self, mode: str, timeout_s: float, slave: int, master: int) -> None:
        self.master, self.slave = master, slave
        self.before = termios.tcgetattr(slave)
        words = [sys.executable, "-c", GUEST, mode, str(timeout_s)]
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True
        )
        self.seen = b""
        self.expect(b"ready")

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + LIMIT_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, self.seen
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def end(self) -> tuple[int, str]:
        """The exit status and what it said; the terminal must be as before."""
        _, told = self.process.communicate(timeout=LIMIT_S)
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode, told.decode()


Start = Callable[..., Running]


@pytest.fixture
def start(terminal: tuple[int, int]) -> Iterator[Start]:
    running: list[Running] = []

    def begin(mode: str = "keys", timeout_s: float = 0) -> Running:
        running.append(Running(mode, timeout_s, terminal[1], terminal[0]))
        return running[-1]

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()
        assert each.process.stderr is not None
        each.process.stderr.close()


def test_typed_keys_reach_the_guest_without_echo_and_newline(start: Start) -> None:
    guest = start()
    guest.type(b"a")
    guest.expect(b"a")
    guest.type(b"\x03")
    guest.expect(b"\x03")
    guest.type(b"q")
    assert guest.end() == (0, "")


def test_ctrl_a_x_ends_the_run(start: Start) -> None:
    guest = start()
    guest.type(b"\x01x")
    assert guest.end() == (0, "")


def test_ctrl_a_h_lists_the_keys(start: Start) -> None:
    guest = start()
    guest.type(b"\x01h\x01cq")
    status, told = guest.end()
    assert status == 0
    assert "Ctrl-A X" in told
    assert "there is no monitor" in told


def test_ctrl_c_is_a_signal_on_plain_stdio(start: Start) -> None:
    guest = start("plain")
    guest.type(b"\x03")
    assert guest.end() == (130, "emu: ended by SIGINT, guest at 0x1000\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_run_with_its_status(start: Start, number: signal.Signals, status: int) -> None:
    guest = start()
    guest.process.send_signal(number)
    assert guest.end()[0] == status


def test_a_second_signal_ends_a_machine_that_does_not_stop(start: Start) -> None:
    guest = start()
    guest.type(b"s")
    guest.expect(b"s")
    guest.process.send_signal(signal.SIGINT)
    while guest.process.poll() is None:
        guest.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert guest.end()[0] == 130


def test_a_changed_window_size_is_no_event(start: Start) -> None:
    guest = start()
    guest.process.send_signal(signal.SIGWINCH)
    guest.type(b"q")
    assert guest.end() == (0, "")


def test_a_timeout_says_where_the_guest_is(start: Start) -> None:
    guest = start(timeout_s=0.2)
    assert guest.end() == (4, "emu: timed out, guest at 0x1000\n")


def test_a_halted_guest_leaves_the_terminal_as_it_was(start: Start) -> None:
    guest = start()
    guest.type(b"h")
    assert guest.end() == (4, "emu: guest halted with interrupts off at 0x1000\n")


def echo(stdin: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", GUEST, "keys", "0.5"]
    return subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_end_of_standard_input_is_no_event() -> None:
    with echo(subprocess.DEVNULL) as process:
        assert process.communicate(timeout=LIMIT_S)[0] == b"ready\n"
    assert process.returncode == 4


def test_a_file_is_good_standard_input(tmp_path: Path) -> None:
    (tmp_path / "typed").write_bytes(b"q")
    with (tmp_path / "typed").open("rb") as typed, echo(typed.fileno()) as process:
        assert process.communicate(timeout=LIMIT_S)[0] == b"ready\nq"
    assert process.returncode == 0


def test_a_reader_that_goes_away_ends_the_run_quietly() -> None:
    words = [sys.executable, "-c", GUEST, "keys", "0"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    process.stdin.write(b"a\n")
    process.stdin.flush()
    assert process.wait(LIMIT_S) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stdin.close()
    process.stderr.close()
