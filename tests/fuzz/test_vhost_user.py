"""Hostile front-ends: whatever comes, that connection ends or goes on, nothing leaks, others are served."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.dataplanes.vhost_user.channel import Channel, Message
from emu.dataplanes.vhost_user.inflight import InflightArea, InflightQueue, create_area
from emu.dataplanes.vhost_user.messages import (
    MAX_FDS,
    VERSION,
    Config,
    Header,
    Inflight,
    Log,
    ProtocolError,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    encode,
    encode_regions,
    encode_u64,
)
from emu.devices.block.raw import RawImage
from emu.errors import DriverError, PeerError
from emu.serve.session import PROTOCOL_FEATURES
from tests.serve_lab import FEATURES, USER, Desk, Front, blk_session, make_disk, open_fds, sector, shared_maps

RAM = 1 << 20
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Sent = tuple[int, bytes, tuple[str, ...]]
"""A request, its payload, and the kinds of its descriptors."""


class Peer:
    """The descriptors that messages carry, by kind."""

    def __init__(self) -> None:
        self.memory, self.log, self.eventfd = os.memfd_create("ram"), os.memfd_create("log"), os.eventfd(0)
        os.ftruncate(self.memory, RAM)
        os.ftruncate(self.log, 4096)
        self.inflight, _ = create_area(2, 16)
        self.pipe = os.pipe()
        self.sockets = socket.socketpair()

    def fd(self, kind: str) -> int:
        """One of this kind."""
        return {
            "memory": self.memory,
            "log": self.log,
            "eventfd": self.eventfd,
            "inflight": self.inflight,
            "pipe": self.pipe[1],
            "socket": self.sockets[0].fileno(),
        }[kind]

    def close(self) -> None:
        """All of them."""
        for fd in (self.memory, self.log, self.eventfd, self.inflight, *self.pipe):
            os.close(fd)
        for sock in self.sockets:
            sock.close()


RING = VringAddr(0, 0, USER + 0x1_0000, USER + 0x1_2000, USER + 0x1_1000, 0x1_2000)
HANDSHAKE: tuple[Sent, ...] = (  # QEMU's, as its log shows it, with a log and what is in flight
    (Request.GET_FEATURES, b"", ()),
    (Request.GET_PROTOCOL_FEATURES, b"", ()),
    (Request.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL_FEATURES), ()),
    (Request.GET_QUEUE_NUM, b"", ()),
    (Request.GET_MAX_MEM_SLOTS, b"", ()),
    (Request.SET_BACKEND_REQ_FD, b"", ("socket",)),
    (Request.SET_OWNER, b"", ()),
    (Request.SET_VRING_CALL, VringFd(0, has_fd=True).encode(), ("eventfd",)),
    (Request.SET_VRING_ERR, VringFd(0, has_fd=True).encode(), ("eventfd",)),
    (Request.GET_CONFIG, Config(0, 0, bytes(57)).encode(), ()),
    (Request.GET_INFLIGHT_FD, Inflight(0, 0, 2, 16).encode(), ()),
    (Request.SET_INFLIGHT_FD, Inflight(2 * 320, 0, 2, 16).encode(), ("inflight",)),
    (Request.SET_FEATURES, encode_u64(FEATURES), ()),
    (Request.ADD_MEM_REG, Region(0, RAM, USER, 0).encode(), ("memory",)),
    (Request.SET_VRING_NUM, VringState(0, 16).encode(), ()),
    (Request.SET_VRING_BASE, VringState(0, 0).encode(), ()),
    (Request.SET_VRING_ADDR, RING.encode(), ()),
    (Request.SET_VRING_KICK, VringFd(0, has_fd=True).encode(), ("eventfd",)),
    (Request.SET_VRING_ENABLE, VringState(0, 1).encode(), ()),
    (Request.SET_LOG_BASE, Log(4096, 0).encode(), ("log",)),
    (Request.SET_FEATURES, encode_u64(FEATURES | 1 << 26), ()),
    (Request.SET_MEM_TABLE, encode_regions([Region(0, RAM, USER, 0)]), ("memory",)),
    (Request.GET_VRING_BASE, VringState(0, 0).encode(), ()),
    (Request.REM_MEM_REG, Region(0, RAM, USER, 0).encode(), ()),
)

kinds = st.sampled_from(["memory", "log", "eventfd", "inflight", "pipe", "socket"])
messages = st.tuples(st.integers(0, 45), st.binary(max_size=64), st.lists(kinds, max_size=3).map(tuple))


@st.composite
def mutated(draw: st.DrawFn) -> list[Sent]:
    """The handshake with a few messages changed, left out, doubled, or made up."""
    sent: list[Sent] = list(HANDSHAKE)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(sent) - 1))
        request, body, fds = sent[at]
        how = draw(st.sampled_from(["body", "cut", "fds", "drop", "again", "swap", "new"]))
        if how == "body" and body:
            changed = bytearray(body)
            for _ in range(draw(st.integers(1, 8))):
                changed[draw(st.integers(0, len(body) - 1))] = draw(
                    st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF])
                )
            sent[at] = (request, bytes(changed), fds)
        elif how == "cut":
            sent[at] = (request, body[: draw(st.integers(0, len(body)))] + draw(st.binary(max_size=9)), fds)
        elif how == "fds":
            sent[at] = (request, body, draw(st.lists(kinds, max_size=MAX_FDS).map(tuple)))
        elif how == "drop" and len(sent) > 1:
            del sent[at]
        elif how == "again":
            sent.insert(draw(st.integers(0, len(sent))), sent[at])
        elif how == "swap":
            other = draw(st.integers(0, len(sent) - 1))
            sent[at], sent[other] = sent[other], sent[at]
        else:
            sent.insert(at, draw(messages))
    return sent


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawImage]:
    image = RawImage(make_disk(tmp_path_factory.mktemp("fuzz")), read_only=False)
    yield image
    image.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def play(sent: list[Sent], peer: Peer, disk: RawImage, ram: bytes) -> str:
    """Give the messages to a session, and turns to its rings in between; what ended it."""
    desk = Desk()
    session = blk_session(disk, desk, queues=2)
    os.pwrite(peer.memory, ram, 0x1_0000)
    try:
        for request, body, fds in sent:
            copies = [os.dup(peer.fd(kind)) for kind in fds]
            reply = session.answer(Message(Header(request, VERSION, len(body)), body, copies))
            for fd in reply.fds if reply is not None else ():
                os.close(fd)
            for vring in desk.started:
                assert vring.runner is not None
                try:
                    vring.runner.run(2)
                except DriverError as error:
                    vring.runner.give_up(error)
    except ProtocolError as error:
        return error.message
    finally:
        session.close()
    return ""


def test_the_recorded_handshake_is_good(peer: Peer, disk: RawImage) -> None:
    assert play(list(HANDSHAKE), peer, disk, b"") == ""


@FUZZ
@given(sent=mutated(), ram=st.binary(max_size=64))
def test_mutated_handshakes_leave_nothing_behind(
    peer: Peer, disk: RawImage, sent: list[Sent], ram: bytes
) -> None:
    fds, maps = len(os.listdir("/proc/self/fd")), shared_maps()  # noqa: PTH208 - quick
    play(sent, peer, disk, ram)
    assert (len(os.listdir("/proc/self/fd")), shared_maps()) == (fds, maps)  # noqa: PTH208 - quick


@FUZZ
@given(sent=st.lists(messages, max_size=20))
def test_random_messages_leave_nothing_behind(peer: Peer, disk: RawImage, sent: list[Sent]) -> None:
    fds, maps = len(os.listdir("/proc/self/fd")), shared_maps()  # noqa: PTH208 - quick
    play([*HANDSHAKE[:3], *sent], peer, disk, b"")
    assert (len(os.listdir("/proc/self/fd")), shared_maps()) == (fds, maps)  # noqa: PTH208 - quick


@FUZZ
@given(pieces=st.lists(st.binary(max_size=40), max_size=8), whole=st.booleans())
def test_random_bytes_on_a_channel_are_messages_or_an_error(pieces: list[bytes], whole: bool) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    if whole:
        theirs.sendall(encode(Request.SET_OWNER))
    try:
        for piece in pieces:
            theirs.sendall(piece)
            while (message := channel.poll_message()) is not None:
                assert len(message.body) <= 4096
                message.close()
    except PeerError:
        pass
    finally:
        channel.close()
        theirs.close()


@FUZZ
@given(content=st.binary(min_size=272, max_size=272), used_idx=st.integers(0, 0xFFFF))
def test_what_is_in_an_inflight_region_is_never_believed(content: bytes, used_idx: int) -> None:
    region = bytearray(content)
    region[8:12] = b"\x01\x00\x10\x00"  # version 1, 16 descriptors
    queue = InflightQueue(memoryview(region), 16)
    heads = queue.recover(used_idx)
    assert len(set(heads)) == len(heads)
    assert all(0 <= head < 16 for head in heads)
    queue.take([1, 5, 2])
    queue.answered(1, used_idx + 1 & 0xFFFF)
    assert set(queue.recover(used_idx + 1 & 0xFFFF)) == {5, 2} | (set(heads) - {1})


def test_other_front_ends_are_served_meanwhile(tmp_path: Path, peer: Peer) -> None:
    """Broken and stalled connections to one socket, a guest on another: it gets every answer."""
    from emu.dataplanes.vhost_user.channel import connect
    from emu.serve.blk import blk_devices
    from emu.serve.endpoint import Endpoint
    from emu.serve.loop import Loop
    from tests.serve_lab import OverSocket, running, wait_readable

    with ExitStack() as undo:
        image = RawImage(make_disk(tmp_path), read_only=False)
        undo.callback(image.close)
        loop = Loop()
        undo.callback(loop.close)
        for i in range(2):
            path = str(tmp_path / f"s{i}")
            undo.callback(Endpoint(loop, path, blk_devices(image, 1), limit_s=0.02).close)
        undo.enter_context(running(loop))
        channel = connect(str(tmp_path / "s0"))
        undo.callback(channel.close)
        guest = Front(OverSocket(channel))
        undo.callback(guest.close)
        guest.connect()
        guest.ask(Request.GET_FEATURES)
        before = open_fds()
        for i in range(60):
            with socket.socket(socket.AF_UNIX) as bad:
                bad.connect(str(tmp_path / "s1"))
                request, body, _ = HANDSHAKE[i % len(HANDSHAKE)]
                data = encode(request, body)
                bad.sendall(data[: i % 13 + 1] if i % 3 else data[:4] + b"\xff" * 8)
                head = guest.add_read(i)
                if guest.driver.needs_kick():
                    guest.kick.write()
                while not (used := guest.driver.used()):
                    wait_readable(guest.call.fd)
                    guest.call.wait()
                assert [number for number, _ in used] == [head]
                assert guest.driver.written(head) == sector(i) + b"\0"
                if i % 3 == 0:
                    wait_readable(bad.fileno())
        last = connect(str(tmp_path / "s1"))
        last.send(Request.GET_FEATURES)
        assert last.receive_reply(Request.GET_FEATURES)
        last.close()
        guest.ask(Request.GET_FEATURES)
        assert open_fds() <= before + 1  # the last one may not be gone yet


def test_an_area_is_as_large_as_its_queues_need() -> None:
    fd, inflight = create_area(3, 128)
    area = InflightArea(inflight, fd)
    assert inflight.mmap_size == 3 * 2112  # 16 + 16 * 128 bytes, at multiples of 64
    assert area.queue(2) is not None
    assert area.queue(3) is None
    area.close()
    os.close(fd)
