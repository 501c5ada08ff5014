"""`emu serve` behind front-ends that nobody of us wrote, and as a user starts it."""

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.dataplanes.vhost_user.channel import ConnectionLostError, connect
from emu.dataplanes.vhost_user.messages import Inflight, Request
from emu.devices.virtio.spec import SECTOR
from emu.serve.counters import read_counters
from emu.testing.driver_queue import DriverQueue
from tests.serve_lab import SECTORS, Front, OverSocket, make_disk, sector, wait_readable

QEMU = "qemu-system-x86_64"
DISK_READ, READ_ERROR = 33, 35
LIMIT_S = 30
SERVE = (sys.executable, "-m", "emu", "serve", "vhost-user-blk")

# prints "MBR: ", reads sector 1 by int 13h, prints it, then writes 0x10 (or 0x11) to port 0xf4
BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfb"  # cli; ds = es = ss = 0; sp = 7c00; sti
    "8816627c"  # [drive] = dl
    "bec07ce82100"  # print "MBR: "
    "be527cb4428a16627ccd13720a"  # int 13h, function 42h with the packet at 7c52; jc fail
    "be007ee80e00b010eb02"  # print what was read; al = 10
    "b011"  # fail: al = 11
    "baf400eefaf4ebfd"  # out 0xf4, al; cli; hlt
    "ac84c07412"  # print: lodsb; zero ends
    "88c3bafd03eca82074fb"  # wait for the transmit holding register
    "88d8baf803eeebe9c3"  # out 3f8, al; loop; ret
)


def boot_sector() -> bytes:
    """The code, the packet at 0x52, the text at 0xc0."""
    code = bytearray(510)
    code[: len(BOOT_SECTOR)] = BOOT_SECTOR
    code[0x52:0x62] = struct.pack("<BBHHHQ", 16, 0, 1, 0x7E00, 0, 1)
    code[0xC0:0xC6] = b"MBR: \0"
    return bytes(code) + b"\x55\xaa"


@contextlib.contextmanager
def serving(*words: str, sockets: int = 1) -> Iterator["subprocess.Popen[str]"]:
    """The command, once it listens; it must end cleanly."""
    with subprocess.Popen(
        [*SERVE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            for _ in range(sockets):
                assert process.stdout.readline().startswith("listening on ")
            yield process
        finally:
            process.terminate()
            process.wait(LIMIT_S)
    assert process.returncode == 0


@pytest.mark.peer(QEMU)
@pytest.mark.parametrize("poll", [False, True])
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_seabios_boots_a_disk_through_qemus_front_end(tmp_path: Path, machine: str, poll: bool) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(boot_sector() + b"sector 1 read\r\n".ljust(SECTOR, b"\0") + bytes(1 << 20))
    path, counters = str(tmp_path / "s"), str(tmp_path / "counters")
    words = ["--socket", path, "--drive", f"file={disk},format=raw", "--counters", counters]
    with serving(*words, *(["--poll"] if poll else [])):
        for _ in range(2):  # one front-end after the other
            guest = subprocess.run(
                [
                    *(
                        QEMU,
                        "-accel",
                        "tcg",
                        "-display",
                        "none",
                        "-nodefaults",
                        "-no-reboot",
                        "-serial",
                        "stdio",
                    ),
                    *("-machine", f"{machine},memory-backend=mem", "-m", "256"),
                    *("-object", "memory-backend-memfd,id=mem,size=256M,share=on"),
                    *("-device", "isa-debug-exit,iobase=0xf4", "-chardev", f"socket,id=c,path={path}"),
                    *("-device", "vhost-user-blk-pci,chardev=c,num-queues=1,bootindex=0"),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert "MBR: sector 1 read" in guest.stdout, guest.stderr
            assert guest.returncode == DISK_READ
    assert read_counters(counters).requests >= 4
    assert not Path(path).exists()


class Guest(Front):
    """A front-end over the command's socket."""

    def __init__(self, path: str, undo: ExitStack, queue: DriverQueue | None = None) -> None:
        until = time.monotonic() + LIMIT_S
        while True:
            try:
                self.channel = connect(path)
                break
            except OSError:
                assert time.monotonic() < until
        super().__init__(OverSocket(self.channel), queue=queue)
        undo.callback(self.channel.close)
        undo.callback(self.close)

    def read(self, number: int) -> bytes:
        """One sector."""
        head = self.add_read(number)
        if self.driver.needs_kick():
            self.kick.write()
        while not (used := self.driver.used()):
            wait_readable(self.call.fd)
            self.call.wait()
        assert used == [(head, SECTOR + 1)]
        return self.driver.written(head)[:-1]


def test_one_process_serves_several_guests_a_disk_each(tmp_path: Path) -> None:
    words = []
    for i in range(3):
        disk = make_disk(tmp_path, f"{i}.img")
        disk.write_bytes(bytes([i]) * SECTOR + disk.read_bytes()[SECTOR:])
        words += ["--socket", str(tmp_path / f"s{i}"), "--drive", f"file={disk},format=raw"]
    with serving(*words, sockets=3), ExitStack() as undo:
        guests = [Guest(str(tmp_path / f"s{i}"), undo) for i in range(3)]
        for guest in guests:
            guest.connect()
        for i, guest in enumerate(guests):
            assert guest.read(0) == bytes([i]) * SECTOR
            assert guest.read(7) == sector(7)


class Writer(Guest):
    """Keeps writes in flight, each of another sector, and counts every answer."""

    def __init__(self, path: str, undo: ExitStack) -> None:
        self.path, self._undo = path, undo
        super().__init__(path, undo, DriverQueue(size=64, event_idx=True, slot_bytes=1024))
        self.hand: dict[int, int] = {}  # head -> sector
        self.answered: list[int] = []
        self.next = 0
        self.negotiate()
        self.channel.send(Request.GET_INFLIGHT_FD, Inflight(0, 0, 1, 64).encode())
        message = self.channel.receive_reply_message(Request.GET_INFLIGHT_FD)
        self.area, (self.fd,) = message.body, message.take_fds(1)
        undo.callback(os.close, self.fd)

    def start(self) -> None:
        """Let the back-end that is connected go on."""
        self.share_memory()
        self.tell(Request.SET_INFLIGHT_FD, self.area, [self.fd])
        self.set_ring(base=self.driver.used_words[1])
        self.start_ring()

    def reconnect(self) -> None:
        """To the next back-end."""
        self.channel.close()
        self.channel = connect(self.path)
        self._undo.callback(self.channel.close)
        self.line = OverSocket(self.channel)
        self.negotiate()
        self.start()

    def write_until(self, total: int, last: int) -> None:
        """Go on until so many are answered, with up to 20 in flight and none from `last` on."""
        while len(self.answered) < total:
            while len(self.hand) < 20 and self.next < last:
                self.hand[self.add_write(self.next, pattern(self.next))] = self.next
                self.next += 1
            if self.driver.needs_kick():
                self.kick.write()
            used = self.driver.used()
            if not used:
                wait_readable(self.call.fd)
                self.call.wait()
            self.answered += [self.hand.pop(head) for head, _ in used]


def pattern(number: int) -> bytes:
    return b"w%06d\n" % number * 64


def test_back_ends_killed_under_load_lose_no_write_and_answer_none_twice(tmp_path: Path) -> None:
    disk, kills = make_disk(tmp_path), 10
    path = str(tmp_path / "s")
    last = SECTORS - 8
    with ExitStack() as undo:
        guest = None
        for turn in range(kills + 1):
            process = undo.enter_context(
                subprocess.Popen(
                    [*SERVE, "--socket", path, "--drive", f"file={disk},format=raw"],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=Path(__file__).parents[2],
                )
            )
            undo.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on {path}\n"
            if guest is None:
                guest = Writer(path, undo)
                guest.start()
            else:
                guest.reconnect()
            if turn < kills:
                guest.write_until((turn + 1) * 150, last)
                process.kill()
                process.wait()
        assert guest is not None
        guest.write_until(last, last)
        assert sorted(guest.answered) == list(range(last))
        assert disk.read_bytes()[: last * SECTOR] == b"".join(map(pattern, range(last)))


def test_a_call_that_blocks_ends_its_own_connection_only(tmp_path: Path) -> None:
    """The flag that keeps us from blocking is the front-end's, too: it can take it away."""
    disk, sockets = make_disk(tmp_path), [str(tmp_path / f"s{i}") for i in range(2)]
    words = [word for path in sockets for word in ("--socket", path)]
    with serving(*words, "--drive", f"file={disk},format=raw", sockets=2), ExitStack() as undo:
        bad, guest = (Guest(path, undo) for path in sockets)
        for front in (bad, guest):
            front.connect()
            assert front.read(1) == sector(1)
        bad.called()
        os.set_blocking(bad.call.fd, True)
        os.eventfd_write(bad.call.fd, 2**64 - 2)
        bad.add_read(2)
        bad.kick.write()
        with pytest.raises(ConnectionLostError):
            bad.channel.receive()
        assert guest.read(3) == sector(3)


def test_it_ends_with_the_descriptor_it_was_told_to_watch(tmp_path: Path) -> None:
    disk, path = make_disk(tmp_path), tmp_path / "s"
    reader, writer = os.pipe()
    with subprocess.Popen(
        [*SERVE, "--socket", str(path), "--drive", f"file={disk},format=raw", "--while-fd", str(reader)],
        pass_fds=[reader],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        os.close(reader)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening")
        os.close(writer)
        assert process.wait(LIMIT_S) == 0
    assert not path.exists()
