"""Whatever a guest or a peer sends, a network card, a switch or a stream drops it, or works."""

import contextlib
import socket
import struct
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.net.offload import MAX_HEADERS, MAX_SEGMENTS, FrameError, checked, finish
from emu.devices.net.stream import StreamPeer
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Offload
from emu.devices.net.verify import is_right
from emu.devices.virtio.net import VirtioNet
from emu.devices.virtio.net_queues import HEADER, NetQueues
from emu.devices.virtio.spec import F_VERSION_1, NET_F_MRG_RXBUF
from emu.errors import DriverError
from emu.serve.switch import AGE_S, Port, Switch
from emu.testing.driver_queue import DriverQueue
from emu.testing.e1000_driver import Cable
from tests.unit.test_net_offload import LARGE

MAC = bytes.fromhex("525400123456")
WORD = st.one_of(st.sampled_from([0, 1, 14, 16, 34, 54, 1000, 65535]), st.integers(0, 65535))
BYTE = st.one_of(st.sampled_from([0, 1, 3, 4, 0x81, 0x84]), st.integers(0, 255))
HEADERS = st.builds(HEADER.pack, BYTE, BYTE, WORD, WORD, WORD, WORD, WORD)
OFFLOADS = st.builds(Offload, st.booleans(), WORD, WORD, BYTE, WORD, WORD)
PATCHES = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=4)
FRAMES = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 1 << 16).map(lambda n: (LARGE * (1 + n // len(LARGE)))[:n]),
    PATCHES.map(lambda patches: patched(LARGE, patches)),
)


def patched(data: bytes, patches: list[tuple[int, int]]) -> bytes:
    made = bytearray(data)
    for at, value in patches:
        made[at] = value
    return bytes(made)


@settings(max_examples=300, deadline=None)
@given(patches=PATCHES, cut=st.integers(0, 80), junk=st.binary(min_size=MIN_FRAME, max_size=100))
def test_any_frame_of_a_peer_is_judged(patches: list[tuple[int, int]], cut: int, junk: bytes) -> None:
    frame = patched(LARGE, patches)
    assert is_right(frame) in (False, True)
    is_right(frame[: MIN_FRAME + cut])
    is_right(junk)


@settings(max_examples=200, deadline=None)
@given(frame=FRAMES, offload=OFFLOADS)
def test_any_offload_gives_frames_of_bounded_size_or_an_error(frame: bytes, offload: Offload) -> None:
    try:
        frames = finish([memoryview(frame)], offload)
    except FrameError:
        frames = []
    try:
        handed_on = checked(frame, offload)
    except FrameError:
        assert not frames
    else:
        assert frames or len(frame) < MIN_FRAME
        assert handed_on.hdr_len <= MAX_HEADERS
    assert len(frames) <= MAX_SEGMENTS
    assert sum(map(len, frames)) <= len(frame) + MAX_SEGMENTS * MAX_HEADERS


@settings(max_examples=150, deadline=None)
@given(
    chains=st.lists(st.tuples(HEADERS, FRAMES, st.integers(0, 100)), max_size=6),
    features=st.sampled_from([0, 1, 2, 3]),
)
def test_any_chain_is_sent_to_the_other_port_or_dropped(
    chains: list[tuple[bytes, bytes, int]], features: int
) -> None:
    switch = Switch(now=lambda: 0.0)
    ports = [Port(switch, "one"), Port(switch, "two")]
    accepted = F_VERSION_1 | NET_F_MRG_RXBUF if features & 1 else 0
    accepted |= Port.guest_features if features & 2 else 0
    rings = [DriverQueue(size=64, slot_bytes=1 << 18), DriverQueue(size=256, slot_bytes=4096)]
    queues = [NetQueues(port, 1) for port in ports]
    for each in queues:
        each.set_features(accepted)
    send, receive = queues[0].drain(1, rings[0].device_side()), queues[1].drain(0, rings[1].device_side())
    for header, frame, cut in chains:
        whole = header + frame
        rings[0].add(*filter(None, (whole[:cut], whole[cut:])))
    for _ in range(256):
        rings[1].add(4096)
    assert send(256) == len(chains)
    assert len(rings[0].used()) == len(chains)
    receive(1024)
    for head, length in rings[1].used():
        assert 0 < length <= 4096
        assert len(rings[1].written(head)) == 4096


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
    lengths=st.lists(st.integers(14, 9000), max_size=6),
    mergeable=st.booleans(),
)
def test_frames_come_whole_into_buffers_of_any_size(
    sizes: list[int], lengths: list[int], mergeable: bool
) -> None:
    cable, ring = Cable(), DriverQueue(size=16)
    queues = NetQueues(cable, 1)
    queues.set_features(F_VERSION_1 | (NET_F_MRG_RXBUF if mergeable else 0))
    heads = [ring.add(size) for size in sizes]
    drain = queues.drain(0, ring.device_side())
    frames = [bytes((i + j) & 0xFF for j in range(length)) for i, length in enumerate(lengths)]
    cable.offer(*frames)
    try:
        drain(256)
    except DriverError:
        assert min(sizes) < 12
        return
    found, chains = [], [ring.written(head)[:length] for head, length in ring.used()]
    while chains:
        buffers = struct.unpack_from("<H", chains[0], 10)[0]
        found.append(b"".join(chains[:buffers])[12:])
        del chains[:buffers]
    assert len(heads) == len(sizes)
    rest = iter(frames)
    assert all(any(each == other for other in rest) for each in found), "in order, each one whole"


@settings(max_examples=150, deadline=None)
@given(
    chains=st.lists(
        st.one_of(
            st.tuples(st.integers(10, 4096)),
            st.tuples(st.integers(1, 3000), st.integers(1, 1000)),
            st.tuples(st.just(b"for the device to read")),
        ),
        max_size=10,
    ),
    broken=st.lists(st.tuples(st.integers(0, 15), st.binary(min_size=16, max_size=16)), max_size=1),
    lengths=st.lists(st.integers(14, 9000), max_size=6),
    features=st.sampled_from([0, F_VERSION_1, F_VERSION_1 | NET_F_MRG_RXBUF]),
    skipped=st.sampled_from([0, 0, 3, 17]),
)
def test_the_fast_way_leaves_what_the_plain_one_leaves(
    chains: list[tuple[int | bytes, ...]],
    broken: list[tuple[int, bytes]],
    lengths: list[int],
    features: int,
    skipped: int,
) -> None:
    frames = [bytes((i + 3 * j) & 0xFF for j in range(length)) for i, length in enumerate(lengths)]
    found = []
    for fused in (False, True):
        cable, ring = Cable(), DriverQueue(size=16)
        queues = NetQueues(cable, 1)
        queues.fused = fused
        queues.set_features(features)
        for parts in chains:
            if sum(map(len, ring.chains.values())) + len(parts) <= ring.size:
                ring.add(*parts)
        for i, descriptor in broken:
            ring.desc[16 * i : 16 * i + 16] = descriptor
        ring.set_avail_idx(ring.avail_idx + skipped)
        drain = queues.drain(0, ring.device_side())
        cable.offer(*frames)
        try:
            outcome = str(drain(256))
        except DriverError as error:
            outcome = str(error)
        memory = bytes(ring.memory.view(0, ring.memory.ranges[0].size))
        found.append((outcome, queues.dropped, queues.costs.bytes_copied, len(cable.waiting), memory))
    assert found[0] == found[1]


@settings(max_examples=200, deadline=None)
@given(
    commands=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0, 5), st.integers(0, 6), st.binary(max_size=40)).map(
                lambda c: bytes(c[:2]) + c[2]
            ),
        ),
        max_size=8,
    ),
    frames=st.lists(st.binary(min_size=14, max_size=60), max_size=4),
)
def test_any_command_is_answered_and_frames_go_on(commands: list[bytes], frames: list[bytes]) -> None:
    cable = Cable()
    card = VirtioNet(cable, mac=MAC, pairs=3)
    card.set_features(card.features | F_VERSION_1)
    control, ring = DriverQueue(size=16), DriverQueue(size=16)
    drain, receive = card.drain(6, control.device_side()), card.drain(0, ring.device_side())
    for command in commands:
        head = control.add(*filter(None, (command,)), 1)
        assert drain(256) == 1
        assert control.used() == [(head, 1)]
        assert control.written(head)[0] in (0, 1)
    for _ in frames:
        ring.add(200)
    cable.offer(*frames)
    assert receive(256) <= len(frames)


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.integers(0, 90).map(lambda n: struct.pack(">I", n) + bytes(n)),
            st.integers(0, (1 << 32) - 1).map(lambda n: struct.pack(">I", n)),
        ),
        max_size=10,
    )
)
def test_any_stream_is_frames_until_it_is_none(pieces: list[bytes]) -> None:
    ours, far = socket.socketpair()
    with closing(StreamPeer(ours, "fuzz")) as peer, far:
        found = []
        for piece in pieces:
            if piece:
                far.sendall(piece)
            while (frame := peer.receive()) is not None:
                found.append(bytes(frame))
        stream, at, wanted, broken = b"".join(pieces), 0, [], False
        while at + 4 <= len(stream):
            length = struct.unpack_from(">I", stream, at)[0]
            broken = not MIN_FRAME <= length <= MAX_FRAME
            if broken or at + 4 + length > len(stream):
                break
            wanted.append(stream[at + 4 : at + 4 + length])
            at += 4 + length
        assert found == wanted
        assert peer.link_up == (not broken)


ADDRESSES = st.integers(0, 5).map(lambda n: bytes((n & 1, 0, 0, 0, 0, n)))


@settings(max_examples=100, deadline=None)
@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.one_of(
                st.binary(max_size=20), st.tuples(ADDRESSES, ADDRESSES).map(lambda a: b"".join(a) + bytes(9))
            ),
            st.one_of(st.none(), OFFLOADS),
            st.sampled_from([0.0, 100.0, AGE_S + 1]),
        ),
        max_size=40,
    )
)
def test_frames_go_where_a_table_of_all_that_was_seen_says(
    frames: list[tuple[int, bytes, Offload | None, float]],
) -> None:
    clock = [0.0]
    switch = Switch(now=lambda: clock[0])
    ports = [Port(switch, str(i)) for i in range(4)]
    seen: dict[bytes, tuple[int, float]] = {}
    for number, data, offload, pause in frames:
        clock[0] += pause
        ports[number].send([memoryview(data)], offload)
        wanted: list[bytes] = []
        with contextlib.suppress(FrameError):
            wanted = [bytes(each) for each in finish([memoryview(data)], offload)]
        if wanted and not data[6] & 1:
            seen[data[6:12]] = (number, clock[0])
        to, when = seen.get(data[:6], (-1, clock[0]))
        targets = {to} if to >= 0 and clock[0] - when <= AGE_S else {0, 1, 2, 3}
        for i, port in enumerate(ports):
            received = []
            while (each := port.receive()) is not None:
                received.append(bytes(each))
            assert received == (wanted if i in targets - {number} else [])
