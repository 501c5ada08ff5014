"""vhost-user-net without a guest: sessions, two front-ends on one switch, the uplink, the command."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from emu.dataplanes.vhost_user.messages import (
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_INFLIGHT_SHMFD,
    ProtocolError,
    Request,
    decode_u64,
    encode_u64,
)
from emu.devices.virtio.spec import (
    F_VERSION_1,
    NET_F_CSUM,
    NET_F_GUEST_CSUM,
    NET_F_GUEST_TSO4,
    NET_F_MQ,
    NET_F_MRG_RXBUF,
)
from emu.errors import ConfigError
from emu.serve.counters import read_counters
from emu.serve.net import Cards
from emu.serve.session import Session
from emu.serve.switch import Port, Switch
from emu.testing.e1000_driver import Cable
from tests.serve_lab import Desk, Direct, open_fds, shared_maps
from tests.serve_net_lab import BROADCAST, LIMIT_S, PROTOCOL, RECEIVED, ROOT, NetFront, frame, mac, serving


class Bench:
    """Sessions on one switch, without sockets."""

    def __init__(self, guests: int = 2, pairs: int = 1) -> None:
        self.desk, self.switch, self.cards = Desk(), Switch(), Cards(pairs)
        self.undo = ExitStack()
        self.woken: list[tuple[int, int]] = []
        self.sessions: list[Session] = []
        self.fronts: list[NetFront] = []
        for guest in range(guests):
            open_device = self.cards.plugged_into(partial(Port, self.switch, f"{guest}"))
            session = Session(open_device(partial(self._wake, guest)), self.desk)
            self.sessions.append(session)
            self.fronts.append(NetFront(Direct(session)))
            self.undo.callback(self.fronts[-1].close)

    def _wake(self, guest: int, queue: int) -> bool:
        self.woken.append((guest, queue))
        return self.sessions[guest].rings.vrings[queue].runner is not None

    def serve(self) -> None:
        """Run every ring, and those that were woken by it."""
        self.desk.serve()
        self.desk.serve()

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.undo.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as made:
        yield made


# ---- sessions --------------------------------------------------------------------------------------


def test_a_card_offers_what_its_data_queues_do(bench: Bench) -> None:
    front = bench.fronts[0]
    offered = decode_u64(front.ask(Request.GET_FEATURES), "")
    for wanted in (NET_F_CSUM, NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_MRG_RXBUF, F_VERSION_1):
        assert offered & wanted
    assert not offered & NET_F_MQ
    protocol = decode_u64(front.ask(Request.GET_PROTOCOL_FEATURES), "")
    assert protocol & PROTOCOL == PROTOCOL
    assert not protocol & (PROTOCOL_F_CONFIG | PROTOCOL_F_INFLIGHT_SHMFD)
    assert decode_u64(front.ask(Request.GET_QUEUE_NUM), "") == 2


def test_a_frame_of_one_front_end_reaches_the_other(bench: Bench) -> None:
    for front in bench.fronts:
        front.plug()
    one, two = bench.fronts
    one.send(frame(BROADCAST, mac(1)))
    bench.desk.serve()
    assert two.received() == [RECEIVED + frame(BROADCAST, mac(1))]
    two.send(frame(mac(1), mac(2), b"x"))
    bench.serve()
    assert one.received() == [RECEIVED + frame(mac(1), mac(2), b"x")]
    assert bench.woken == [(1, 0), (0, 0)]
    assert bench.cards.costs().bytes_copied == 4 * 60


def test_an_unfinished_frame_is_finished_for_a_front_end_that_does_not_take_it(bench: Bench) -> None:
    one, two = bench.fronts
    two.features |= NET_F_GUEST_CSUM
    for front in bench.fronts:
        front.plug()
    header = struct.pack("<BBHHHHH", 1, 0, 0, 0, 14, 0, 0)
    for there, back in ((one, two), (two, one)):
        there.tx.add(header + frame(BROADCAST, mac(1), b"\x12\x34"))
        bench.serve()
        passed = back is two
        assert back.received() == [
            (header[:10] + b"\x01\x00" if passed else RECEIVED)
            + frame(BROADCAST, mac(1), b"\x12\x34" if passed else b"\xed\xcb")
        ]


def test_what_came_before_the_queues_ran_is_not_delivered(bench: Bench) -> None:
    one, two = bench.fronts
    one.plug()
    one.send(frame(BROADCAST, mac(1)))
    bench.desk.serve()
    two.plug()
    bench.desk.serve()
    assert two.received() == []


def test_a_rarp_is_sent_in_the_guests_name() -> None:
    cable, desk, cards = Cable(), Desk(), Cards(1)
    with closing(Session(cards.plugged_into(lambda: cable)(lambda _queue: False), desk)) as session:
        line = Direct(session)
        line.send(Request.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL))
        line.send(Request.SEND_RARP, mac(7) + b"\xaa\xbb")
    assert [sent for sent, _ in cable.sent] == [
        (BROADCAST + mac(7) + bytes.fromhex("8035 0001 0800 0604 0003") + (mac(7) + bytes(4)) * 2).ljust(
            60, b"\0"
        )
    ]


def test_a_request_of_net_needs_its_protocol_feature_and_sense(bench: Bench) -> None:
    line = Direct(bench.sessions[0])
    for request in (Request.SEND_RARP, Request.NET_SET_MTU):
        with pytest.raises(ProtocolError, match="its protocol feature was not negotiated"):
            line.send(request, encode_u64(1500))
    line.send(Request.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL))
    for mtu in (68, 1500, 65520):
        answer = line.send(Request.NET_SET_MTU, encode_u64(mtu), need_reply=True)
        assert answer is not None
        assert decode_u64(answer.body, "") == 0
    for mtu in (0, 67, 65537, 1 << 63):
        with pytest.raises(ProtocolError, match=f"NET_SET_MTU: u64: {mtu:#x} cannot be"):
            line.send(Request.NET_SET_MTU, encode_u64(mtu))
    with pytest.raises(ProtocolError, match="SEND_RARP: u64: 0x1 cannot be"):
        line.send(Request.SEND_RARP, encode_u64(1))
    with pytest.raises(ProtocolError, match="SEND_RARP"):
        line.send(Request.SEND_RARP, bytes(7))
    with pytest.raises(ProtocolError, match="GET_CONFIG: request: its protocol feature"):
        line.send(Request.GET_CONFIG, bytes(12))


def test_queue_pairs_are_offered_and_one_that_does_not_run_gets_no_frames() -> None:
    with closing(Bench(pairs=4)) as bench:
        one, two = bench.fronts
        assert decode_u64(two.ask(Request.GET_FEATURES), "") & NET_F_MQ
        assert decode_u64(two.ask(Request.GET_QUEUE_NUM), "") == 8
        for front in bench.fronts:
            front.plug()
        flows = [frame(BROADCAST, mac(1), bytes(12) + bytes((i,)) * 12) for i in range(8)]
        for each in flows:
            one.send(each)
        bench.desk.serve()
        assert sorted(two.received()) == sorted(RECEIVED + each for each in flows)


@pytest.mark.parametrize("pairs", [0, 17])
def test_a_number_of_pairs_that_cannot_be_is_refused(pairs: int) -> None:
    with pytest.raises(ConfigError, match=f"{pairs} queue pairs"):
        Cards(pairs)


def test_a_front_end_that_leaves_leaves_the_switch_and_nothing_of_it_stays(bench: Bench) -> None:
    one, two = bench.fronts
    before = open_fds(), shared_maps()
    one.plug()
    two.plug()
    two.send(frame(BROADCAST, mac(2)))
    bench.serve()
    spent = bench.cards.costs()
    bench.sessions[1].close()
    one.send(frame(mac(2), mac(1)))
    bench.desk.serve()
    assert two.received() == []
    assert bench.cards.costs().bytes_copied == spent.bytes_copied + 60
    bench.sessions[0].close()
    assert (open_fds(), shared_maps()) == before


# ---- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("poll", [False, True])
def test_the_echo_port_answers_each_front_end_and_counts(tmp_path: Path, poll: bool) -> None:
    counters = str(tmp_path / "counters")
    words = ["--echo", "--counters", counters, *(["--poll"] if poll else [])]
    with serving(tmp_path, *words, guests=2) as fronts:
        for number, front in enumerate(fronts):
            for turn in range(20):
                front.send(frame(mac(9), mac(number), bytes((0, turn))))
                assert front.expect(1) == [RECEIVED + frame(mac(number), mac(9), bytes((0, turn)))]
            for turn in range(number + 1):
                front.send(frame(mac(9), mac(number), b"\x01" + bytes((turn,)) * 45))
            front.send(frame(mac(9), mac(number), b"\x02"))
            (report,) = front.expect(1)
            assert struct.unpack_from("<QQ", report, 12 + 16) == (number + 1, 46 * (number + 1)), (
                "its own port"
            )
        fronts[0].ask(Request.GET_FEATURES)
        costs = read_counters(counters)
    assert costs.requests == 2 * 2 * 21 + 1 + 2
    assert costs.interrupts >= 2 * 21


@pytest.mark.parametrize("poll", [False, True])
def test_two_front_ends_talk_and_everything_is_captured(tmp_path: Path, poll: bool) -> None:
    capture = tmp_path / "f.pcap"
    with serving(tmp_path, "--pcap", str(capture), *(["--poll"] if poll else []), guests=2) as (one, two):
        for turn in range(50):
            one.send(frame(mac(2) if turn else BROADCAST, mac(1), bytes((turn,))))
            assert two.expect(1)[0][26:27] == bytes((turn,))
            two.send(frame(mac(1), mac(2), bytes((turn,))))
            assert one.expect(1)[0][26:27] == bytes((turn,))
    assert capture.stat().st_size == 24 + 100 * (16 + 60)


def listen(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.settimeout(LIMIT_S)
    return server


def talk(server: socket.socket, front: NetFront) -> None:
    """A frame up, and more down than one turn has; then nobody listens, and the connection ends."""
    up, down = frame(BROADCAST, mac(1), b"up"), frame(BROADCAST, mac(2), b"down")
    far, _ = server.accept()
    with far:
        far.settimeout(LIMIT_S)
        front.send(up)
        assert far.recv(1000) == struct.pack(">I", 60) + up
        far.sendall((struct.pack(">I", 60) + down) * 200)
        assert front.expect(200) == [RECEIVED + down] * 200
        Path(server.getsockname()).unlink()
        server.close()


def test_an_uplink_brings_frames_and_comes_back_when_it_was_lost(tmp_path: Path) -> None:
    path = str(tmp_path / "up")
    with listen(path) as first, serving(tmp_path, "--uplink", path) as (front,):
        talk(first, front)
        with listen(path) as second:
            talk(second, front)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to listen at: give --socket PATH"),
        (["--socket", "S", "--echo", "--uplink", "passt"], "--echo is no port of a switch"),
        (["--socket", "S", "--queues", "17"], "--queues"),
        (["--socket", "S", "--uplink", "/no/such"], "--uplink /no/such: No such file or directory"),
        (["--socket", "S", "--pcap", "/no/such/f"], "--pcap: /no/such/f: No such file or directory"),
        (["--socket", "S", "--mirror"], "--mirror"),
        (["--socket", "S", "disk"], '"disk": this kind takes flags only'),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    command = [word if word != "S" else str(tmp_path / "s") for word in words]
    shown = subprocess.run(
        [sys.executable, "-m", "emu", "serve", "vhost-user-net", *command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        check=False,
    )
    assert shown.returncode == 2
    assert said in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()
