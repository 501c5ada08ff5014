"""The loop behind `emu serve`: sockets, kicks, polling; what one front-end does never stops another."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.bus.costs import Costs
from emu.dataplanes.vhost_user.channel import ConnectionLostError, connect
from emu.dataplanes.vhost_user.messages import (
    FLAG_NEED_REPLY,
    FLAG_REPLY,
    Request,
    VringState,
    encode,
    encode_u64,
)
from emu.devices.block.raw import RawImage
from emu.devices.virtio.spec import SECTOR
from emu.errors import ConfigError
from emu.serve.blk import blk_devices
from emu.serve.counters import Account, read_counters
from emu.serve.endpoint import MESSAGES_A_TURN, Endpoint
from emu.serve.loop import Loop
from tests.serve_lab import (
    Direct,
    Front,
    OverSocket,
    blk_session,
    make_disk,
    open_fds,
    running,
    sector,
    shared_maps,
    wait_readable,
)

Serve = Callable[..., Loop]


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def disk(tmp_path: Path, undo: ExitStack) -> RawImage:
    image = RawImage(make_disk(tmp_path), read_only=False)
    undo.callback(image.close)
    return image


@pytest.fixture
def serve(tmp_path: Path, disk: RawImage, undo: ExitStack) -> Serve:
    """Start a loop with as many sockets, s0, s1 ... in `tmp_path`."""

    def start(sockets: int = 1, *, poll: bool = False, limit_s: float = 5.0) -> Loop:
        loop = Loop(poll=poll)
        undo.callback(loop.close)
        account = Account(str(tmp_path / "counters"), [lambda: loop.costs, lambda: disk.costs])
        loop.before_telling = account.flush
        for i in range(sockets):
            undo.callback(Endpoint(loop, str(tmp_path / f"s{i}"), blk_devices(disk, 1), limit_s).close)
        return undo.enter_context(running(loop))

    return start


class Guest(Front):
    """A front-end over a socket; each of its reads waits for the call."""

    def __init__(self, path: Path, undo: ExitStack, *, event_idx: bool = True) -> None:
        self.channel = connect(str(path))
        super().__init__(OverSocket(self.channel), event_idx=event_idx)
        undo.callback(self.channel.close)
        undo.callback(self.close)

    def read(self, number: int, *, kick: bool | None = None) -> bytes:
        """One sector; `kick` None: as the ring wants it."""
        head = self.add_read(number)
        self.wanted = self.driver.needs_kick()
        if self.wanted if kick is None else kick:
            self.kick.write()
        while not (used := self.driver.used()):
            wait_readable(self.call.fd)
            self.call.wait()
        assert used == [(head, SECTOR + 1)]
        data = self.driver.written(head)
        assert data[-1] == 0
        return data[:-1]


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_kick_is_answered(serve: Serve, tmp_path: Path, undo: ExitStack, event_idx: bool) -> None:
    serve()
    guest = Guest(tmp_path / "s0", undo, event_idx=event_idx)
    guest.connect()
    for number in range(200):
        assert guest.read(number) == sector(number)


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_polled_ring_needs_no_kick(serve: Serve, tmp_path: Path, undo: ExitStack, event_idx: bool) -> None:
    serve(poll=True)
    guest = Guest(tmp_path / "s0", undo, event_idx=event_idx)
    guest.connect()
    guest.ask(Request.GET_FEATURES)  # the ring has been parked by now
    for number in range(200):
        assert guest.read(number, kick=False) == sector(number)
        assert not guest.wanted


def test_polling_rests_between_requests_and_wakes_without_a_kick(
    serve: Serve, tmp_path: Path, undo: ExitStack
) -> None:
    serve(poll=True)
    guest = Guest(tmp_path / "s0", undo)
    guest.connect()
    guest.ask(Request.GET_FEATURES)
    until = time.monotonic() + 0.1
    while time.monotonic() < until:  # longer than IDLE_S
        assert not guest.called()
    assert guest.read(1, kick=False) == sector(1)


def test_a_request_whose_kick_was_lost_is_found_a_little_later(disk: RawImage, undo: ExitStack) -> None:
    """A front-end of others joins no barrier: its guest may see no wish for a kick where there is one."""
    loop = Loop()
    undo.callback(loop.close)
    session = blk_session(disk, loop)
    undo.callback(session.close)
    front = Front(Direct(session))
    undo.callback(front.close)
    front.connect()
    loop.turn()
    front.add_read(1)
    front.kick.write()
    loop.turn()
    assert len(front.driver.used()) == 1
    front.add_read(2)
    loop.turn()
    assert len(front.driver.used()) == 1


def test_what_waits_when_a_ring_starts_needs_no_kick(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    serve()
    guest = Guest(tmp_path / "s0", undo)
    head = guest.add_read(9)
    guest.connect()
    wait_readable(guest.call.fd)
    assert guest.driver.used() == [(head, SECTOR + 1)]


def test_the_counters_hold_everything_before_a_call(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    serve()
    guest = Guest(tmp_path / "s0", undo)
    guest.connect()
    guest.add_read(9)
    guest.kick.write()
    wait_readable(guest.call.fd)
    assert read_counters(str(tmp_path / "counters")).requests == 1


def test_two_guests_share_a_disk(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    serve(2)
    guests = [Guest(tmp_path / f"s{i}", undo) for i in range(2)]
    for guest in guests:
        guest.connect()
    for number in range(50):
        assert [guest.read(number + i) for i, guest in enumerate(guests)] == [
            sector(number),
            sector(number + 1),
        ]


def test_a_second_front_end_waits_until_the_first_has_gone(
    serve: Serve, tmp_path: Path, undo: ExitStack
) -> None:
    serve()
    first, second = Guest(tmp_path / "s0", undo), Guest(tmp_path / "s0", undo)
    first.connect()
    second.channel.send(Request.GET_FEATURES)
    assert first.read(1) == sector(1)
    assert second.channel.poll_message() is None
    first.channel.close()
    assert second.channel.receive_reply(Request.GET_FEATURES)
    second.connect()
    assert second.read(2) == sector(2)


def test_a_message_that_does_not_end_ends_its_connection_only(
    serve: Serve, tmp_path: Path, undo: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    serve(2, limit_s=0.05)
    stalled, guest = socket.socket(socket.AF_UNIX), Guest(tmp_path / "s1", undo)
    undo.callback(stalled.close)
    stalled.connect(str(tmp_path / "s0"))
    stalled.sendall(encode(Request.SET_FEATURES, encode_u64(1))[:13])
    guest.connect()
    assert guest.read(3) == sector(3)
    wait_readable(stalled.fileno())
    assert stalled.recv(1) == b""
    assert "s0: the front-end sent a part of a message only" in caplog.text
    assert guest.read(4) == sector(4)


def test_a_broken_message_is_answered_and_ends_the_connection(
    serve: Serve, tmp_path: Path, undo: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    serve(2)
    bad, guest = Guest(tmp_path / "s0", undo), Guest(tmp_path / "s1", undo)
    guest.connect()
    bad.negotiate()
    bad.channel.send(Request.SET_VRING_NUM, VringState(0, 3).encode(), flags=FLAG_NEED_REPLY)
    answer = bad.channel.receive()
    assert (answer.request, answer.flags & FLAG_REPLY, answer.body) == (8, FLAG_REPLY, encode_u64(1))
    with pytest.raises(ConnectionLostError):
        bad.channel.receive()
    assert "s0: vhost-user SET_VRING_NUM: num: 3, a power of two up to 1024" in caplog.text
    assert guest.read(4) == sector(4)


def test_memory_that_is_taken_away_ends_that_session_only(
    serve: Serve, tmp_path: Path, undo: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    serve(2)
    bad, guest = Guest(tmp_path / "s0", undo), Guest(tmp_path / "s1", undo)
    for front in (bad, guest):
        front.connect()
        assert front.read(1) == sector(1)
    bad.add_read(2)
    os.ftruncate(bad.memory.fd, 0)
    bad.kick.write()
    with pytest.raises(ConnectionLostError):
        bad.channel.receive()
    assert "s0: the front-end took memory away that it shares" in caplog.text
    assert guest.read(5) == sector(5)


def visit(path: Path) -> tuple[int, int]:
    """One front-end comes, reads and goes; descriptors and mappings while it was there."""
    with ExitStack() as own:
        guest = Guest(path, own)
        guest.connect()
        assert guest.read(1) == sector(1)
        guest.ask(Request.GET_FEATURES)
        return open_fds(), shared_maps()


def test_a_front_end_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    serve()
    assert len({visit(tmp_path / "s0") for _ in range(5)}) == 1


def test_the_counters_hold_everything_before_a_reply(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    serve()
    guest = Guest(tmp_path / "s0", undo)
    guest.connect()
    for number in range(5):
        guest.read(number)
    guest.ask(Request.GET_FEATURES)
    counted = read_counters(str(tmp_path / "counters"))
    assert (counted.requests, counted.interrupts, counted.bytes_copied) == (5, 5, 5 * SECTOR)
    assert counted.bytes_dma == 0


def test_a_polling_loop_needs_no_hand_over(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    serve(poll=True)
    guest = Guest(tmp_path / "s0", undo)
    guest.connect()
    for number in range(20):
        guest.read(number, kick=False)
    guest.ask(Request.GET_FEATURES)
    counted = read_counters(str(tmp_path / "counters"))
    assert (counted.requests, counted.interrupts, counted.handoffs) == (20, 20, 0)


def test_a_hand_over_is_counted_for_each_wake(serve: Serve, tmp_path: Path, undo: ExitStack) -> None:
    loop = serve()
    guest = Guest(tmp_path / "s0", undo)
    guest.connect()
    for _ in range(MESSAGES_A_TURN + 1):  # the ring has been started, looked at and armed by then
        guest.ask(Request.GET_FEATURES)
    before = loop.costs.handoffs
    assert guest.read(1) == sector(1)
    guest.ask(Request.GET_FEATURES)
    assert loop.costs.handoffs == before + 1


# ---- the socket's file ---------------------------------------------------------------------------------


def test_the_socket_goes_with_the_endpoint(tmp_path: Path, disk: RawImage, undo: ExitStack) -> None:
    loop = Loop()
    undo.callback(loop.close)
    endpoint = Endpoint(loop, str(tmp_path / "s"), blk_devices(disk, 1))
    assert (tmp_path / "s").is_socket()
    with pytest.raises(ConfigError, match="another process listens there; try another path"):
        Endpoint(loop, str(tmp_path / "s"), blk_devices(disk, 1))
    endpoint.close()
    assert not (tmp_path / "s").exists()


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path, disk: RawImage, undo: ExitStack) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    loop = Loop()
    undo.callback(loop.close)
    Endpoint(loop, str(tmp_path / "s"), blk_devices(disk, 1)).close()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("file", "it exists and is no socket; try another path"),
        ("none/s", "No such file or directory; make its folder first"),
        ("x" * 200, "longer than 107 bytes; try a shorter path"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(
    tmp_path: Path, disk: RawImage, undo: ExitStack, name: str, fault: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    loop = Loop()
    undo.callback(loop.close)
    before = open_fds()
    with pytest.raises(ConfigError, match=f"^--socket .*: {fault}$"):
        Endpoint(loop, str(tmp_path / name), blk_devices(disk, 1))
    assert open_fds() == before


def test_costs_of_nothing_are_zero(tmp_path: Path) -> None:
    Account(str(tmp_path / "c"), [])
    assert read_counters(str(tmp_path / "c")) == Costs()
