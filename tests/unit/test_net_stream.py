"""Frames over stream sockets: whole, in parts, wrong; ends that come and go; captures."""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from emu.devices.net.dump import Dumped, PcapFile
from emu.devices.net.link import Connecting, Listening, StreamLink, Timer, connected
from emu.devices.net.stream import LENGTH_BYTES, WORTH_VERIFYING, StreamPeer
from emu.devices.net.types import CHECKED, MAX_FRAME, Offload
from emu.devices.virtio.spec import NET_F_GUEST_CSUM, NET_GSO_TCPV4
from emu.errors import ConfigError
from emu.testing.e1000_driver import Cable
from tests.serve_lab import open_fds
from tests.unit.test_net_offload import LARGE, tcp_packet

LIMIT_S = 10.0


class Pair:
    """A peer, and the socket at its other end."""

    def __init__(self, *, takes_large: bool = False) -> None:
        ours, self.far = socket.socketpair()
        self.far.settimeout(LIMIT_S)
        self.peer = StreamPeer(ours, "pair", takes_large=takes_large)
        self.link: list[bool] = []
        self.peer.on_link = self.link.append

    def close(self) -> None:
        self.peer.close()
        self.far.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made


def framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def frame(length: int, first: int = 0) -> bytes:
    return bytes((first + i) & 0xFF for i in range(length))


def exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        assert piece
        data += piece
    return data


def received(peer: StreamPeer | StreamLink) -> list[bytes]:
    found = []
    while (data := peer.receive()) is not None:
        found.append(bytes(data))
    return found


def ready(backend: StreamLink) -> None:
    """Wait until its descriptor says that there is something to do."""
    assert backend.fd is not None
    poll = select.poll()
    poll.register(backend.fd, select.POLLIN)
    assert poll.poll(LIMIT_S * 1000)


# ---- one connection --------------------------------------------------------------------------------


def test_a_frame_goes_out_behind_its_length(pair: Pair) -> None:
    sent = memoryview(frame(100))
    pair.peer.send([sent[:14], sent[14:]])
    assert exactly(pair.far, 104) == framed(frame(100))
    assert (pair.peer.costs.syscalls, pair.peer.costs.bytes_copied) == (1, 100)


def test_frames_come_in_whatever_parts_they_arrive(pair: Pair) -> None:
    stream = framed(frame(14)) + framed(frame(300, 5)) + framed(frame(60, 9))
    found = []
    for i in range(len(stream)):
        pair.far.sendall(stream[i : i + 1])
        found += received(pair.peer)
    assert found == [frame(14), frame(300, 5), frame(60, 9)]


def test_many_frames_come_in_one_piece_and_the_longest_fits(pair: Pair) -> None:
    wanted = [frame(MAX_FRAME, i) for i in range(3)]
    pair.far.sendall(b"".join(map(framed, wanted)))
    assert received(pair.peer) == wanted


@pytest.mark.parametrize("length", [0, 1, 13, MAX_FRAME + 1, 0xFFFF_FFFF])
def test_a_length_that_is_none_ends_the_connection(pair: Pair, length: int) -> None:
    pair.far.sendall(framed(frame(60)) + struct.pack(">I", length) + bytes(100))
    assert received(pair.peer) == [frame(60)]
    assert pair.link == [False]
    assert not pair.peer.link_up
    pair.peer.send([memoryview(frame(60))])
    assert pair.peer.dropped == 1
    assert received(pair.peer) == []
    assert pair.link == [False], "said once"


def lefts(backend: StreamPeer | StreamLink) -> list[Offload | None]:
    """What is left to do on each frame that has come."""
    found = []
    while backend.receive() is not None:
        found.append(backend.left)
    return found


RIGHT = tcp_packet(4, bytes(i & 0xFF for i in range(WORTH_VERIFYING)))
WRONG = RIGHT[:-1] + bytes((RIGHT[-1] ^ 1,))
SHORT = tcp_packet(4, bytes(100))
FOUR = b"".join(map(framed, (RIGHT, WRONG, SHORT, RIGHT)))


def test_the_driver_is_told_of_long_packets_that_are_right_where_it_listens(pair: Pair) -> None:
    assert pair.peer.guest_features == NET_F_GUEST_CSUM
    for features, wanted in (
        (0, [None, None, None, None]),
        (NET_F_GUEST_CSUM, [CHECKED, None, None, CHECKED]),
        (0, [None, None, None, None]),
    ):
        pair.peer.accept(features)
        pair.far.sendall(FOUR)
        assert lefts(pair.peer) == wanted


def test_an_end_that_leaves_within_a_frame_pulls_the_cable(pair: Pair) -> None:
    pair.far.sendall(framed(frame(60))[:30])
    assert received(pair.peer) == []
    pair.far.close()
    assert received(pair.peer) == []
    assert pair.link == [False]


def test_a_frame_that_was_cut_by_a_full_socket_is_finished_first() -> None:
    with closing(Pair()) as pair:
        pair.far.setblocking(False)
        sent = 0
        while not pair.peer.dropped:
            pair.peer.send([memoryview(frame(60000, sent))])
            sent += 1
        pair.far.settimeout(LIMIT_S)
        whole = sent - 1
        first = framed(frame(60000, 0))
        assert exactly(pair.far, len(first)) == first
        pair.peer.send([memoryview(frame(99))])
        for i in range(1, whole):
            assert exactly(pair.far, len(first)) == framed(frame(60000, i))
        assert exactly(pair.far, 103) == framed(frame(99))
        assert pair.peer.dropped == 1


def test_a_large_packet_is_cut_unless_the_other_end_takes_it() -> None:
    offload = Offload(True, 34, 16, NET_GSO_TCPV4, 1000, 54)
    for takes_large, lengths in ((False, [1054] * 3), (True, [len(LARGE)])):
        with closing(Pair(takes_large=takes_large)) as pair:
            pair.peer.send([memoryview(LARGE)], offload)
            for length in lengths:
                assert struct.unpack(">I", exactly(pair.far, LENGTH_BYTES)) == (length,)
                exactly(pair.far, length)


def test_an_offload_that_makes_no_sense_is_dropped_and_counted(pair: Pair) -> None:
    pair.peer.send([memoryview(LARGE)], Offload(needs_csum=True, csum_start=65000))
    assert pair.peer.dropped == 1


# ---- ends that come and go -------------------------------------------------------------------------


def a_link(meeting: Listening | Connecting) -> tuple[StreamLink, list[bool]]:
    link, states = StreamLink(meeting, "link"), list[bool]()
    link.on_link = states.append
    return link, states


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_one_end_after_the_other_is_served(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "s")
    listening = Listening(path if kind == "unix" else ("127.0.0.1", 0), "-netdev")
    link, states = a_link(listening)
    with closing(link):
        link.send([memoryview(frame(60))])
        assert (link.dropped, link.link_up, received(link)) == (1, False, [])
        for turn in range(3):
            with connected(listening.address, "test") as far:
                far.sendall(framed(frame(60, turn)))
                ready(link)
                assert received(link) == [frame(60, turn)]
                assert link.link_up
                link.send([memoryview(frame(70))])
                assert exactly(far, 74) == framed(frame(70))
            ready(link)
            assert received(link) == []
            assert states == [True, False] * (turn + 1)
        assert link.costs.bytes_copied == 3 * 130
    assert not Path(path).exists()


def test_what_the_driver_accepted_holds_for_each_end_that_comes() -> None:
    listening = Listening(("127.0.0.1", 0), "-netdev")
    link, _ = a_link(listening)
    with closing(link):
        assert link.guest_features == NET_F_GUEST_CSUM
        for features, wanted in ((NET_F_GUEST_CSUM, CHECKED), (0, None)):
            link.accept(features)
            assert link.left is None
            with connected(listening.address, "test") as far:
                while not link.link_up:
                    ready(link)
                    assert link.receive() is None
                far.sendall(framed(RIGHT))
                ready(link)
                assert lefts(link) == [wanted]
                link.accept(features ^ NET_F_GUEST_CSUM)
                far.sendall(framed(RIGHT))
                ready(link)
                assert lefts(link) == [CHECKED if wanted is None else None]
                link.accept(features)
            ready(link)
            assert received(link) == []


def test_a_second_end_waits_until_the_first_has_left() -> None:
    listening = Listening(("127.0.0.1", 0), "-netdev")
    link, states = a_link(listening)
    with closing(link), connected(listening.address, "") as first, connected(listening.address, "") as second:
        second.sendall(framed(frame(61)))
        first.sendall(framed(frame(60)))
        ready(link)
        assert received(link) == [frame(60)]
        first.close()
        found: list[bytes] = []
        while not found:
            ready(link)
            found = received(link)
        assert found == [frame(61)]
        assert states == [True, False, True]


def test_who_connects_does_so_again(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    link, states = a_link(Connecting(path, 1, "-netdev"))
    with closing(link):
        ready(link)
        assert (received(link), states) == ([], []), "nobody listens"
        for turn in range(2):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
                server.listen()
                while not link.link_up:
                    ready(link)
                    received(link)
                far, _ = server.accept()
                with far:
                    far.sendall(framed(frame(60)))
                    ready(link)
                    assert received(link) == [frame(60)]
            Path(path).unlink()
            ready(link)
            received(link)
            assert states == [True, False] * (turn + 1)


def test_who_connects_over_tcp_does_not_wait_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link, states = a_link(Connecting(server.getsockname(), 1, "-netdev"))
        with closing(link):
            while not link.link_up:
                ready(link)
                received(link)
            assert states == [True]


def test_a_link_releases_its_descriptors() -> None:
    before = open_fds()
    for meeting in (Listening(("127.0.0.1", 0), ""), Connecting(("127.0.0.1", 1), 60, "")):
        link, _ = a_link(meeting)
        received(link)
        link.close()
        link.close()
    assert open_fds() == before


def test_a_path_where_somebody_listens_is_left_to_them(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = Listening(path, "-netdev")
    with pytest.raises(ConfigError, match=f"^-netdev: {path}: another process listens there"):
        Listening(path, "-netdev")
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(path)
        met = first.meet()
        assert met is not None
        met.close()
    first.close()
    assert not Path(path).exists()


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^-netdev: {tmp_path}/no/s: No such file or directory"):
        Listening(f"{tmp_path}/no/s", "-netdev")
    with pytest.raises(ConfigError, match=f"^-netdev: {tmp_path}/s: No such file"):
        connected(f"{tmp_path}/s", "-netdev")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="it exists and is no socket; try another path"):
        Listening(str(tmp_path / "file"), "-netdev")
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(ConfigError, match=r"^-netdev: host\.invalid:1: "):
        Connecting(("host.invalid", 1), 1, "-netdev")


def test_a_timer_is_due_once_a_period() -> None:
    with closing(Timer(3600)) as timer:
        assert not timer.expired()
        timer.arm(at_once=True)
        assert select.select([timer.fd], [], [], LIMIT_S)[0]
        assert timer.expired()
        assert not timer.expired()


# ---- captures --------------------------------------------------------------------------------------


def records(path: Path) -> list[tuple[int, bytes]]:
    """(length on the wire, bytes kept) of each frame in a capture."""
    data, found, at = path.read_bytes(), [], 24
    while at < len(data):
        _, micros, kept, length = struct.unpack_from("<IIII", data, at)
        assert micros < 1_000_000
        found.append((length, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    return found


def test_a_capture_holds_both_directions_and_no_more_than_it_may(tmp_path: Path) -> None:
    file = PcapFile("-object", str(tmp_path / "f"), 64)
    cable = Cable()
    dumped = Dumped(cable, file)
    sent = memoryview(frame(100))
    dumped.send([sent[:50], sent[50:]])
    cable.offer(frame(64, 1), frame(65, 2))
    assert [dumped.receive(), dumped.receive(), dumped.receive()] == [frame(64, 1), frame(65, 2), None]
    dumped.close()
    file.close()
    assert cable.sent == [(frame(100), None)]
    assert records(tmp_path / "f") == [(100, frame(100)[:64]), (64, frame(64, 1)), (65, frame(65, 2)[:64])]
    assert (tmp_path / "f").read_bytes()[:24] == struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 64, 1)


def test_a_frame_in_very_many_pieces_is_captured(tmp_path: Path) -> None:
    file = PcapFile("-object", str(tmp_path / "f"))
    file.write([memoryview(frame(1)) for _ in range(1500)])
    file.close()
    assert records(tmp_path / "f") == [(1500, bytes(1500))]


def test_a_capture_passes_everything_else_on(tmp_path: Path) -> None:
    file = PcapFile("-object", str(tmp_path / "f"))
    cable = Cable()
    dumped, states, told = Dumped(cable, file), list[bool](), list[int]()
    dumped.on_link = states.append
    dumped.on_ready = lambda: told.append(1)
    cable.plug(False)
    cable.offer(frame(60))
    assert (states, told, dumped.link_up, dumped.left, dumped.fd) == ([False], [1], False, None, None)
    file.close()


def test_a_capture_that_takes_no_more_is_said_once_and_the_frames_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = PcapFile("--pcap", path)
    os.close(reader)
    cable = Cable()
    for _ in range(2):
        Dumped(cable, file).send([memoryview(frame(60))])
    assert cable.sent == [(frame(60), None)] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: Broken pipe; frames from here on are not kept"
    ]


def test_a_capture_that_cannot_begin_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^--pcap: /dev/full: No space left"):
        PcapFile("--pcap", "/dev/full")
