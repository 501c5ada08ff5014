"""Hostile back-ends: whatever they answer, the device is refused in one line or waits; nothing leaks."""

import gc
import os
import socket
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.bus.eventfd import EventFd
from emu.dataplanes.vhost_user.backend_channel import BackendChannel
from emu.dataplanes.vhost_user.channel import Channel, Message, connect
from emu.dataplanes.vhost_user.connection import Connection
from emu.dataplanes.vhost_user.frontend import Kind, VhostUserPlane
from emu.dataplanes.vhost_user.messages import BackendRequest, Request, encode
from emu.devices.virtio.spec import BLK_F_FLUSH, F_RING_EVENT_IDX, F_VERSION_1, TYPE_BLK
from emu.errors import ConfigError
from emu.testing.driver_queue import DriverQueue
from tests.vhost_user_backend import LIMIT_S, Host, ScriptedBackend

KIND = Kind(TYPE_BLK, BLK_F_FLUSH, 60)
STALL_S = 0.01
FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Sent = tuple[int, int, bytes, tuple[str, ...]]
"""A request, its flags, its payload, and the kinds of its descriptors."""


class Recording(Channel):
    """Keeps what it receives."""

    def __init__(self, sock: socket.socket, kept: list[Sent]) -> None:
        super().__init__(sock)
        self._kept = kept

    def receive(self, limit_s: float | None = None) -> Message:
        message = super().receive(limit_s)
        self._kept.append((message.request, message.flags & ~3, message.body, ("memory",) * len(message.fds)))
        return message


class Lab:
    """A ring, its machine, and descriptors for answers that bring some. `answers` are the right ones."""

    def __init__(self, folder: Path) -> None:
        self.host = Host()
        self.driver = DriverQueue(size=16, event_idx=True)
        self.kick, self.call = EventFd("kick"), EventFd("call")
        self.pipe = os.pipe()
        self.kinds = {"memory": os.memfd_create("area"), "event": os.eventfd(0), "pipe": self.pipe[1]}
        self.answers: list[Sent] = []
        self.refusals: list[str] = []
        backend = ScriptedBackend(folder / "s")
        channel = connect(str(folder / "s"))
        self._life(Recording(socket.socket(fileno=os.dup(channel.fileno())), self.answers))
        channel.close()
        backend.die()

    def _life(self, channel: Channel) -> None:
        """All that a device does with its back-end, from connection to end."""

        def dial() -> Connection:
            try:
                return Connection(channel, 1)
            except BaseException:
                channel.close()
                raise

        def nobody() -> Connection:
            raise ConnectionRefusedError

        try:
            plane = VhostUserPlane(dial, KIND, 1, 128, self.host, where="disk", again=nobody)
        except ConfigError as error:
            self.refusals.append(str(error))
            return
        driver = self.driver
        for _ in range(2):
            plane.set_memory(driver.memory)
            plane.set_features(F_VERSION_1 | F_RING_EVENT_IDX)
            plane.set_vring(0, driver.size, driver.desc_gpa, driver.avail_gpa, driver.used_gpa, 0)
            plane.set_kick(0, self.kick)
            plane.set_call(0, self.call)
            plane.set_enable(0, True)
            plane.start()
            plane.write_config(32, b"\0")
            assert len(plane.config(0, 60)) == 60
            plane.costs()
            for call in self.host.calls:
                call()
            assert 0 <= plane.stop()[0] <= 0xFFFF
        plane.close()
        self.host.calls.clear()

    def meet(self, answers: Sequence[Sent], cut: int) -> None:
        """A device whose back-end answers so, and leaves out the last `cut` bytes."""
        ours, theirs = socket.socketpair()
        with theirs:
            for at, (request, flags, body, kinds) in enumerate(answers):
                data = encode(request, body, flags)
                data = data[: len(data) - cut] if at == len(answers) - 1 else data
                fds = array("i", [self.kinds[kind] for kind in kinds])
                theirs.sendmsg([data or b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
            self._life(Channel(ours, limit_s=STALL_S))

    def close(self) -> None:
        self.host.listener.close()
        for fd in (*self.kinds.values(), self.pipe[0]):
            os.close(fd)
        for event in (self.kick, self.call):
            event.close()
        assert self.host.failures == []
        assert not any("\n" in refusal for refusal in self.refusals)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


def held() -> tuple[int, int]:
    """Descriptors and mappings of this process."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return len(os.listdir("/proc/self/fd")), sum(line.split()[1].endswith("s") for line in lines)  # noqa: PTH208 - only how many


def assert_held(before: tuple[int, int]) -> None:
    if held() != before:  # cycles of garbage may hold some
        gc.collect()
    assert held() == before


kinds = st.lists(st.sampled_from(["memory", "event", "pipe"]), max_size=3).map(tuple)
messages = st.tuples(st.integers(0, 45), st.sampled_from([0, 4, 4, 8, 12]), st.binary(max_size=80), kinds)


@st.composite
def mutated(draw: st.DrawFn, right: list[Sent]) -> list[Sent]:
    """The right answers with a few changed, left out, doubled, exchanged or made up."""
    sent = list(right)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sent) - 1))
        request, flags, body, fds = sent[at]
        how = draw(st.sampled_from(["number", "bytes", "cut", "fds", "drop", "again", "swap", "new"]))
        if how == "number" and len(body) >= 8:
            number = draw(st.sampled_from([0, 1, 2, 0xFF, 0x10000, 1 << 31, (1 << 63) - 1, (1 << 64) - 1]))
            body = number.to_bytes(8, "little") + body[8:]
        elif how == "bytes" and body:
            changed = bytearray(body)
            changed[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
            body = bytes(changed)
        elif how == "cut":
            body = body[: draw(st.integers(0, len(body)))]
        elif how == "fds":
            fds = draw(kinds)
        sent[at] = (request, flags, body, fds)
        if how == "drop" and len(sent) > 1:
            del sent[at]
        elif how == "again":
            sent.insert(at, sent[at])
        elif how == "swap":
            sent[at], sent[0] = sent[0], sent[at]
        elif how == "new":
            sent[at] = draw(messages)
    return sent


@FUZZ
@given(data=st.data())
def test_answers_that_are_nearly_right_do_no_harm(lab: Lab, data: st.DataObject) -> None:
    answers = data.draw(mutated(lab.answers))
    before = held()
    lab.meet(answers[: data.draw(st.integers(1, len(answers)))], data.draw(st.integers(0, 12)))
    assert_held(before)


@FUZZ
@given(answers=st.lists(messages, min_size=1, max_size=6))
def test_random_answers_do_no_harm(lab: Lab, answers: list[Sent]) -> None:
    before = held()
    lab.meet(answers, 0)
    assert_held(before)


def test_the_recorded_answers_are_a_whole_life(lab: Lab) -> None:
    asked = [Request(request) for request, *_ in lab.answers]
    assert asked.count(Request.SET_VRING_KICK) == 2
    assert asked[-2:] == [Request.GET_VRING_BASE, Request.SET_STATUS]


own = st.tuples(st.integers(0, 12), st.sampled_from([0, 4, 8, 8]), st.binary(max_size=24), kinds)
own_or_right = st.one_of(own, st.just((int(BackendRequest.CONFIG_CHANGE_MSG), 8, b"", ())))


@FUZZ
@given(sent=st.lists(own_or_right, max_size=20), rubbish=st.binary(max_size=30))
def test_requests_of_the_back_ends_own_do_no_harm(lab: Lab, sent: list[Sent], rubbish: bytes) -> None:
    before = held()
    ours, theirs = socket.socketpair()
    channel = BackendChannel(ours, lab.host.listener, lambda: None, lab.host.post)
    with theirs:
        for request, flags, body, fds in sent:
            rights = array("i", [lab.kinds[kind] for kind in fds])
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            try:
                theirs.sendmsg([encode(request, body, flags)], control)
            except BrokenPipeError:
                break
        else:
            theirs.send(rubbish, socket.MSG_NOSIGNAL) if rubbish and ours.fileno() >= 0 else None
    deadline = time.monotonic() + LIMIT_S
    while ours.fileno() >= 0:  # it ends by itself
        assert time.monotonic() < deadline
    channel.close()
    assert len(lab.host.calls) <= 2
    lab.host.calls.clear()
    assert_held(before)
