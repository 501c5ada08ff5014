"""`emu serve vhost-user-net` behind front-ends that nobody of us wrote."""

import os
import select
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from emu.devices.net.checksum import checksum
from tests.os.guest import Console
from tests.peers.backends import TESTPMD, process
from tests.serve_lab import wait_readable
from tests.serve_net_lab import BROADCAST, KIND, LIMIT_S, NetFront, frame, listening, mac, plugged

QEMU = "qemu-system-x86_64"
ROM = "/usr/lib/ipxe/qemu/pxe-virtio.rom"
IP, ARP = b"\x08\x00", b"\x08\x06"
OURS, THEIRS = bytes((10, 9, 0, 1)), bytes((10, 9, 0, 2))
MAC: Final = mac(1)
RETRY_S = 0.2


def virtio_user(path: Path, pairs: int = 1, mode: str = "icmpecho") -> list[str]:
    """testpmd as front-end, which takes a core; icmpecho answers ARP and ping for every address."""
    words = [TESTPMD, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--lcores=(0,1)@(0,1)"]
    words += [f"--file-prefix=emu{os.getpid()}", f"--vdev=net_virtio_user0,path={path},queues={pairs}"]
    words += ["--", f"--forward-mode={mode}", "--auto-start", "--stats-period=2", "--total-num-mbufs=4096"]
    return [*words, "--no-mlockall", f"--rxq={pairs}", f"--txq={pairs}"]


def resolve(front: NetFront) -> bytes:
    """Ask for THEIRS until somebody answers; the address."""
    question = BROADCAST + MAC + ARP + bytes.fromhex("0001080006040001") + MAC + OURS + bytes(6) + THEIRS
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        front.send(question.ljust(60, b"\0"))
        select.select([front.call.fd], [], [], RETRY_S)
        front.called()
        for answer in front.received():
            if answer[24:26] == ARP and answer[32:34] == b"\0\x02":
                return answer[34:40]
    raise AssertionError("nobody answered")


def echo_request(to: bytes, number: int, length: int) -> bytes:
    """A ping."""
    icmp = struct.pack(">BBHHH", 8, 0, 0, 77, number) + bytes((number + i) & 0xFF for i in range(length))
    icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), number, 0, 64, 1, 0) + OURS + THEIRS
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return to + MAC + IP + ip + icmp


def answers(front: NetFront, count: int) -> list[bytes]:
    """That many IP frames."""
    found: list[bytes] = []
    while len(found) < count:
        found += [each[12:] for each in front.expect(1) if each[24:26] == IP]
    return found


@pytest.mark.peer(TESTPMD)
@pytest.mark.parametrize("words", [(), ("--poll",), ("--queues", "2")])
def test_dpdks_virtio_user_answers_another_guest(tmp_path: Path, words: Sequence[str]) -> None:
    pairs = 2 if "--queues" in words else 1
    with (
        listening(tmp_path, *words, guests=2) as paths,
        plugged(paths[0]) as front,
        process(virtio_user(paths[1], pairs)),
    ):
        theirs = resolve(front)
        for number in range(50):
            ping = echo_request(theirs, number, 40 + 20 * number)
            front.send(ping)
            (answer,) = answers(front, 1)
            assert answer[:12] == MAC + theirs
            assert (answer[26:30], answer[30:34], answer[34]) == (THEIRS, OURS, 0)
            assert answer[42:] == ping[42:]


def carried(front: NetFront, there: NetFront, data: bytes) -> None:
    """Send a frame of our own type and wait until it has come, among whatever else comes."""
    front.send(data)
    found: list[bytes] = []
    while not found:
        wait_readable(there.call.fd, LIMIT_S)
        there.called()
        found = [each[12:] for each in there.received() if each[24:26] == KIND]
    assert found == [data]


@pytest.mark.peer(TESTPMD)
@pytest.mark.parametrize("words", [(), ("--poll",)])
def test_a_guest_at_full_speed_leaves_every_frame_of_others_its_place(
    tmp_path: Path, words: Sequence[str]
) -> None:
    with listening(tmp_path, *words, guests=3) as paths, plugged(paths[0]) as one, plugged(paths[1]) as two:
        carried(one, two, frame(BROADCAST, mac(1)))
        carried(two, one, frame(mac(1), mac(2)))
        with process(virtio_user(paths[2], mode="txonly")):
            wait_readable(one.call.fd, LIMIT_S)  # its frames are for nobody, so everybody gets them
            for turn in range(200):
                carried(one, two, frame(mac(2), mac(1), bytes((turn,))))
                carried(two, one, frame(mac(1), mac(2), bytes((turn,))))


@pytest.mark.peer(QEMU, "passt", ROM)
def test_ipxe_in_qemu_gets_a_lease_through_the_uplink(tmp_path: Path) -> None:
    capture = tmp_path / "f.pcap"
    with listening(tmp_path, "--uplink", "passt", "--pcap", str(capture)) as (path,):
        words = [QEMU, "-accel", "tcg", "-display", "none", "-nodefaults", "-serial", "stdio", "-m", "64"]
        words += ["-machine", "pc,graphics=off,memory-backend=mem", "-boot", "n"]
        words += ["-object", "memory-backend-memfd,id=mem,size=64M,share=on"]
        words += ["-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n,chardev=c"]
        with closing(Console([*words, "-device", "virtio-net-pci,netdev=n,vectors=0"])) as guest:
            guest.expect("net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2")
    assert b"\x35\x01\x01" in capture.read_bytes(), "DHCP DISCOVER"
    assert b"\x35\x01\x05" in capture.read_bytes(), "DHCP ACK"
