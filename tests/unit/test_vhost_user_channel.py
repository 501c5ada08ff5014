"""The channel of vhost-user messages: real sockets, messages cut anywhere, descriptors that never leak."""

import array
import os
import socket
from collections.abc import Iterator

import pytest

from emu.dataplanes.vhost_user.channel import Channel, ConnectionLostError
from emu.dataplanes.vhost_user.messages import FLAG_REPLY, ProtocolError, Request, encode, encode_u64
from emu.errors import PeerError
from tests.serve_lab import open_fds


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, limit_s=0.05)
    yield channel, theirs
    channel.close()
    theirs.close()


def rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def test_messages_arrive_whole_and_apart(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.sendall(encode(Request.SET_OWNER) + encode(Request.SET_FEATURES, encode_u64(5)))
    first, second = channel.poll_message(), channel.poll_message()
    assert first is not None
    assert second is not None
    assert (first.name, first.body, second.name, second.body) == (
        "SET_OWNER",
        b"",
        "SET_FEATURES",
        encode_u64(5),
    )
    assert channel.poll_message() is None


def test_a_message_that_comes_byte_by_byte_is_one_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    data = encode(Request.SET_FEATURES, encode_u64(7))
    for byte in data[:-1]:
        peer.sendall(bytes((byte,)))
        assert channel.poll_message() is None
        assert channel.within_message
    peer.sendall(data[-1:])
    message = channel.poll_message()
    assert message is not None
    assert message.body == encode_u64(7)
    assert not channel.within_message


def test_descriptors_stay_with_their_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    reader, writer = os.pipe()
    before = open_fds()
    peer.sendall(encode(Request.SET_OWNER))
    peer.sendmsg([encode(Request.SET_LOG_FD)], rights([writer]))
    peer.sendall(encode(Request.SET_OWNER))
    counts = []
    for _ in range(3):
        message = channel.poll_message()
        assert message is not None
        counts.append(len(message.fds))
        message.close()
    assert counts == [0, 1, 0]
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_a_descriptor_is_taken_once_and_in_the_right_number(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    reader, writer = os.pipe()
    before = open_fds()
    peer.sendmsg([encode(Request.SET_LOG_FD)], rights([writer, reader]))
    message = channel.poll_message()
    assert message is not None
    with pytest.raises(ProtocolError, match="SET_LOG_FD: fds: 2 came, 1 must"):
        message.take_fds(1)
    first, second = message.take_fds(2)
    os.write(first, b"x")
    assert os.read(second, 1) == b"x"
    assert message.fds == []
    for fd in (first, second):
        os.close(fd)
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_descriptors_may_come_with_any_part_of_their_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    reader, writer = os.pipe()
    before = open_fds()
    data = encode(Request.SET_FEATURES, encode_u64(7))
    peer.sendmsg([data[:5]], rights([writer]))
    peer.sendmsg([data[5:15]], rights([reader]))
    peer.sendmsg([data[15:]], rights([writer]))
    message = channel.poll_message()
    assert message is not None
    assert len(message.fds) == 3
    message.close()
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_too_many_descriptors_are_closed_and_refused(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    reader, writer = os.pipe()
    before = open_fds()
    peer.sendmsg([encode(Request.SET_LOG_FD)], rights([writer] * 9))
    with pytest.raises(ProtocolError, match="fds: more than 8 came"):
        channel.poll_message()
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_descriptors_of_a_message_that_never_ends_go_with_the_channel() -> None:
    before = open_fds()
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    reader, writer = os.pipe()
    theirs.sendmsg([encode(Request.SET_FEATURES, encode_u64(7))[:5]], rights([writer]))
    assert channel.poll_message() is None
    channel.close()
    for fd in (reader, writer):
        os.close(fd)
    theirs.close()
    assert open_fds() == before


@pytest.mark.parametrize(
    ("sent", "where"), [(0, "connection$"), (5, "within a message$"), (14, "within a message$")]
)
def test_a_peer_that_goes_is_noticed(pair: tuple[Channel, socket.socket], sent: int, where: str) -> None:
    channel, peer = pair
    peer.sendall(encode(Request.SET_FEATURES, encode_u64(7))[:sent])
    peer.close()
    with pytest.raises(ConnectionLostError, match=where):
        channel.poll_message()


def test_waiting_has_a_limit(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    with pytest.raises(PeerError, match="the peer sent no message in time"):
        channel.receive()
    peer.sendall(encode(Request.GET_FEATURES)[:5])
    with pytest.raises(PeerError, match="the peer sent a part of a message only in time"):
        channel.receive()


def test_a_peer_that_reads_nothing_cannot_hold_us_up(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair

    def offer_many() -> None:
        for _ in range(10_000):
            channel.offer(Request.GET_CONFIG, bytes(4096), flags=FLAG_REPLY)

    with pytest.raises(PeerError, match="the peer does not read replies"):
        offer_many()
    with pytest.raises(PeerError, match=r"the peer took .* in time"):
        channel.send(Request.GET_CONFIG, bytes(4096))


def test_a_reply_is_checked_against_its_request(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.sendall(encode(Request.GET_FEATURES, encode_u64(9), FLAG_REPLY))
    assert channel.receive_reply(Request.GET_FEATURES) == encode_u64(9)
    peer.sendall(encode(Request.GET_STATUS, encode_u64(9), FLAG_REPLY))
    with pytest.raises(ProtocolError, match="GET_STATUS: request: it is no reply to GET_FEATURES"):
        channel.receive_reply(Request.GET_FEATURES)
    peer.sendall(encode(Request.GET_FEATURES, encode_u64(9)))
    with pytest.raises(ProtocolError, match="GET_FEATURES: request: it is no reply to GET_FEATURES"):
        channel.receive_reply(Request.GET_FEATURES)
