"""The VMM's end of vhost-user, against a back-end that a test can make wrong in any message."""

import contextlib
import gc
import math
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from emu.bus.eventfd import EventFd
from emu.clock import GuestClock
from emu.dataplanes.vhost_user.channel import Channel, Message, connect
from emu.dataplanes.vhost_user.connection import USER_BASE, Connection
from emu.dataplanes.vhost_user.dialling import Server
from emu.dataplanes.vhost_user.frontend import Kind, VhostUserPlane
from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FLAG_NEED_REPLY,
    FLAG_REPLY,
    PROTOCOL_F_MQ,
    PROTOCOL_F_MTU,
    BackendRequest,
    Inflight,
    Request,
    VringAddr,
    VringState,
    encode,
    encode_u64,
)
from emu.dataplanes.vhost_user.reconnect import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_after
from emu.dataplanes.vhost_user.ring_watch import LATE_NS, SOON_NS
from emu.devices.virtio.spec import BLK_F_FLUSH, F_RING_EVENT_IDX, F_VERSION_1, TYPE_BLK, TYPE_NET
from emu.errors import ConfigError, DriverError
from emu.testing.driver_queue import DriverQueue
from tests.vhost_user_backend import CONFIG, FEATURES, LIMIT_S, PROTOCOL, Host, ScriptedBackend

KIND = Kind(TYPE_BLK, BLK_F_FLUSH, 60)


def negotiated(channel: Channel) -> Connection:
    try:
        return Connection(channel, 1)
    except BaseException:
        channel.close()
        raise


class Rig:
    """A plane, its back-end, and one ring of a driver."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s"
        self.host = Host()
        self.backends: list[ScriptedBackend] = []
        self.plane: VhostUserPlane | None = None
        self.driver = DriverQueue(size=16, event_idx=True)
        self.kick, self.call = EventFd("kick"), EventFd("call")
        self.interrupts = threading.Semaphore(0)
        self.call.bind(self.interrupts.release)
        self.errors: list[DriverError] = []
        self.limit_s = 2.0

    def backend(self, **settings: object) -> ScriptedBackend:
        self.backends.append(ScriptedBackend(self.path, **settings))  # type: ignore[arg-type]  # by keyword
        return self.backends[-1]

    def dial(self) -> Connection:
        return negotiated(connect(str(self.path), limit_s=self.limit_s))

    def open(self) -> VhostUserPlane:
        self.plane = VhostUserPlane(self.dial, KIND, 1, 128, self.host, where="disk")
        return self.plane

    def start(self) -> VhostUserPlane:
        plane, driver = self.plane or self.open(), self.driver
        plane.set_memory(driver.memory)
        plane.set_features(F_VERSION_1 | F_RING_EVENT_IDX)
        plane.set_error(lambda _index, error: self.errors.append(error))
        plane.set_vring(0, driver.size, driver.desc_gpa, driver.avail_gpa, driver.used_gpa, 0)
        plane.set_kick(0, self.kick)
        plane.set_call(0, self.call)
        plane.set_enable(0, True)
        plane.start()
        return plane

    def close(self) -> None:
        if self.plane is not None:
            self.plane.stop()
            self.plane.close()
        self.host.listener.close()
        for backend in self.backends:
            backend.die()
        assert self.host.failures == []


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_ring_is_handed_over_in_the_order_of_the_specification(rig: Rig) -> None:
    backend = rig.backend()
    rig.start()
    names = backend.names()
    assert names[:5] == [
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_OWNER",
    ]
    order = ["SET_FEATURES", "ADD_MEM_REG", "SET_INFLIGHT_FD", "SET_VRING_NUM", "SET_VRING_BASE"]
    order += ["SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_KICK", "SET_VRING_ENABLE"]
    assert [name for name in names if name in order] == order
    (features,) = backend.bodies(Request.SET_FEATURES)
    assert struct.unpack("<Q", features)[0] == F_VERSION_1 | F_RING_EVENT_IDX | F_PROTOCOL_FEATURES
    (addr,) = (VringAddr.decode(body, "") for body in backend.bodies(Request.SET_VRING_ADDR))
    assert addr.descriptor == USER_BASE + rig.driver.desc_gpa
    assert (addr.available - addr.descriptor, addr.used - addr.descriptor) == (
        rig.driver.avail_gpa - rig.driver.desc_gpa,
        rig.driver.used_gpa - rig.driver.desc_gpa,
    )


def test_kick_and_call_cross_the_processes(rig: Rig) -> None:
    backend = rig.backend()
    plane = rig.start()
    rig.kick.write()
    assert os.eventfd_read(backend.fds[Request.SET_VRING_KICK, 0]) == 1
    os.eventfd_write(backend.fds[Request.SET_VRING_CALL, 0], 1)
    assert rig.interrupts.acquire(timeout=LIMIT_S)
    assert plane.costs().interrupts == 1


def test_the_cpu_hears_of_rings_and_of_each_interrupt_before_the_guest_does(rig: Rig) -> None:
    backend, plane = rig.backend(), rig.open()
    rings: list[Sequence[int]] = []
    order: list[str] = []
    plane.on_rings = rings.append
    plane.on_call = lambda: order.append("cpu")

    def interrupt() -> None:
        order.append("guest")
        rig.interrupts.release()

    rig.call.bind(interrupt)
    rig.start()
    os.eventfd_write(backend.fds[Request.SET_VRING_CALL, 0], 1)
    assert rig.interrupts.acquire(timeout=LIMIT_S)
    assert order == ["cpu", "guest"]
    plane.stop()
    assert rings == [[rig.driver.used_gpa + 2], ()]


def test_a_stopped_ring_tells_where_it_was(rig: Rig) -> None:
    backend = rig.backend(base=7)
    assert rig.start().stop() == {0: 7}
    assert backend.names()[-3:] == ["SET_VRING_ENABLE", "GET_VRING_BASE", "SET_STATUS"]


def test_memory_goes_over_once_a_connection(rig: Rig) -> None:
    backend = rig.backend()
    rig.start().stop()
    rig.start()
    assert backend.names().count("ADD_MEM_REG") == 1
    assert backend.names().count("SET_VRING_KICK") == 2


def test_an_old_back_end_without_protocol_features_serves(rig: Rig) -> None:
    rig.backend(features=FEATURES & ~F_PROTOCOL_FEATURES)
    host = rig.host
    kind = Kind(TYPE_BLK, BLK_F_FLUSH, config=b"own")
    rig.plane = VhostUserPlane(rig.dial, kind, 1, 128, host, where="disk")
    rig.start()
    rig.backends[0].wait_for(Request.SET_VRING_KICK)  # it acknowledges nothing
    names = rig.backends[0].names()
    assert "SET_MEM_TABLE" in names
    assert not {"SET_VRING_ENABLE", "GET_QUEUE_NUM", "SET_STATUS", "GET_INFLIGHT_FD"} & set(names)
    assert rig.plane.config(0, 3) == b"own"


def test_the_configuration_is_the_back_ends_and_follows_it(rig: Rig) -> None:
    backend = rig.backend()
    plane = rig.open()
    assert plane.config(0, 8) == CONFIG[:8]
    assert plane.config(58, 8) == CONFIG[58:60]
    changed: list[bool] = []
    plane.on_config = lambda: changed.append(True)
    backend.config = struct.pack("<Q", 4096) + bytes(52)
    backend.wait_for(Request.SET_BACKEND_REQ_FD)
    os.write(backend.fds[Request.SET_BACKEND_REQ_FD, 0], encode(BackendRequest.CONFIG_CHANGE_MSG))
    rig.host.until(lambda: bool(changed))
    assert plane.config(0, 8) == struct.pack("<Q", 4096)


def test_a_ring_that_the_back_end_gives_up_is_the_devices_error(rig: Rig) -> None:
    backend = rig.backend()
    rig.start()
    os.eventfd_write(backend.fds[Request.SET_VRING_ERR, 0], 1)
    deadline = threading.Event()
    for _ in range(2000):
        if rig.errors:
            break
        deadline.wait(0.01)
    assert len(rig.errors) == 1


# ---- a back-end that goes and comes ----------------------------------------------------------------


def test_the_next_back_end_goes_on_after_the_last_answer(rig: Rig) -> None:
    first = rig.backend()
    plane = rig.start()
    rig.driver.used_words[1] = 5
    first.die()
    second = rig.backend()
    rig.host.until(lambda: "SET_VRING_ENABLE" in second.names())
    (base,) = (VringState.decode(body, "") for body in second.bodies(Request.SET_VRING_BASE))
    assert base.num == 5
    assert "GET_INFLIGHT_FD" not in second.names(), "what was in flight must come from the first one"
    assert "SET_INFLIGHT_FD" in second.names()
    assert os.eventfd_read(second.fds[Request.SET_VRING_KICK, 0]) >= 1, "its kick may have died"
    assert rig.interrupts.acquire(timeout=LIMIT_S)
    assert plane.stop() == {0: 0}


def test_a_device_can_be_stopped_and_started_while_nobody_serves_it(rig: Rig) -> None:
    first = rig.backend()
    plane = rig.start()
    rig.driver.used_words[1] = 3
    first.die()
    rig.host.until(lambda: plane._connection is None)
    assert plane.stop() == {0: 3}
    rig.start()
    second = rig.backend()
    rig.host.until(lambda: "SET_VRING_ENABLE" in second.names())
    assert "GET_INFLIGHT_FD" in second.names(), "a ring that begins anew has nothing in flight"


def test_a_back_end_with_less_than_the_driver_was_promised_is_not_used(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    first = rig.backend()
    rig.start()
    first.die()
    poor = rig.backend(features=FEATURES & ~BLK_F_FLUSH)
    rig.host.until(lambda: "lacks features" in caplog.text)
    assert "SET_VRING_KICK" not in poor.names()


def test_a_back_end_with_fewer_queues_is_not_used_and_the_next_one_is(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    first = rig.backend()
    plane = rig.start()
    first.die()
    rig.host.until(lambda: plane._connection is None)
    poor = rig.backend(queues=0)
    for _ in range(2000):
        if "serves 0 queues" in caplog.text:
            break
        threading.Event().wait(0.01)
    assert "SET_OWNER" not in poor.names()
    poor.die()
    good = rig.backend()
    rig.host.until(lambda: "SET_VRING_ENABLE" in good.names())


def test_the_driver_is_told_where_the_next_back_end_has_another_configuration(rig: Rig) -> None:
    first = rig.backend()
    plane = rig.start()
    changed: list[bytes] = []
    plane.on_config = lambda: changed.append(plane.config(0, 8))
    first.die()
    second = rig.backend()
    rig.host.until(lambda: "SET_VRING_ENABLE" in second.names())
    assert changed == [], "it is the same one"
    second.die()
    third = rig.backend(config=struct.pack("<Q", 4096) + bytes(52))
    rig.host.until(lambda: "SET_VRING_ENABLE" in third.names())
    assert changed == [struct.pack("<Q", 4096)]


def test_the_next_pause_is_longer_where_a_back_end_left_at_once() -> None:
    pauses = [0.0]
    for _ in range(10):
        pauses.append(pause_after(0.0, pauses[-1]))
    assert pauses[1] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert pause_after(1.0, LONGEST_PAUSE_S) == 0.0
    assert pause_after(-math.inf, 0.0) == FIRST_PAUSE_S, "while it is adopted"


def test_the_machine_may_listen_and_back_ends_connect(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(str(rig.path), "disk")
    with contextlib.closing(server):
        connected: list[ScriptedBackend] = [rig.backend(dials=True)]
        rig.plane = VhostUserPlane(
            lambda: negotiated(server.first()),
            KIND,
            1,
            128,
            rig.host,
            where="disk",
            again=lambda: negotiated(server()),
        )
        assert "waiting for a back-end to connect" in caplog.text
        rig.start()
        connected[0].die()
        connected.append(rig.backend(dials=True))
        rig.host.until(lambda: "SET_VRING_ENABLE" in connected[1].names())
        assert os.eventfd_read(connected[1].fds[Request.SET_VRING_KICK, 0]) >= 1
        rig.plane.stop()
        rig.plane.close()
    assert not rig.path.exists()


def test_the_back_end_hears_of_the_mtu_where_it_wants_to(rig: Rig) -> None:
    kind = Kind(TYPE_NET, 0, config=b"own", mtu=9000)
    for protocol, told in ((PROTOCOL, []), (PROTOCOL | PROTOCOL_F_MTU, [encode_u64(9000)])):
        backend = rig.backend(protocol=protocol)
        rig.plane = VhostUserPlane(rig.dial, kind, 1, 128, rig.host, where="card")
        rig.start()
        assert backend.bodies(Request.NET_SET_MTU) == told
        rig.plane.stop()
        rig.plane.close()
        backend.die()


# ---- hostile back-ends -----------------------------------------------------------------------------


def reply(
    body: bytes, request: Request | None = None, flags: int = FLAG_REPLY
) -> Callable[[Channel, Message], None]:
    def answer(channel: Channel, message: Message) -> None:
        channel.send(message.request if request is None else request, body, (), flags)

    return answer


def with_fds(channel: Channel, message: Message) -> None:
    with Path("/dev/null").open("rb") as file:
        channel.send(message.request, encode_u64(FEATURES), (file.fileno(),), FLAG_REPLY)


def part_only(channel: Channel, message: Message) -> None:
    os.write(channel.fileno(), encode(message.request, encode_u64(FEATURES), FLAG_REPLY)[:-3])
    channel.close()


def hang_up(channel: Channel, _message: Message) -> None:
    channel.close()


def silence(_channel: Channel, _message: Message) -> None:
    """Stall."""


INFLIGHT_TOO_LARGE = Inflight(1 << 40, 0, 1, 128).encode()
AT_OPEN = {
    "a reply that is too short": (Request.GET_FEATURES, reply(b"\0\0\0\0"), "GET_FEATURES: size"),
    "a reply that is too long": (Request.GET_FEATURES, reply(bytes(16)), "GET_FEATURES: size"),
    "a reply to something else": (
        Request.GET_FEATURES,
        reply(bytes(8), Request.GET_QUEUE_NUM),
        "GET_QUEUE_NUM: request",
    ),
    "a reply without its flag": (Request.GET_FEATURES, reply(bytes(8), flags=0), "GET_FEATURES: request"),
    "a descriptor that nobody wants": (Request.GET_FEATURES, with_fds, "GET_FEATURES: fds"),
    "a message that breaks off": (Request.GET_FEATURES, part_only, "within a message"),
    "no answer": (Request.GET_QUEUE_NUM, silence, "in time"),
    "an end": (Request.GET_CONFIG, hang_up, "closed the connection"),
    "too few queues": (Request.GET_QUEUE_NUM, reply(encode_u64(0)), "GET_QUEUE_NUM: u64"),
    "a refusal": (Request.SET_OWNER, reply(encode_u64(1)), "SET_OWNER: reply"),
    "no configuration": (Request.GET_CONFIG, reply(b""), "GET_CONFIG: size"),
    "a short configuration": (Request.GET_CONFIG, reply(bytes(12)), "GET_CONFIG"),
    "no virtio 1.0": (Request.GET_FEATURES, reply(encode_u64(0)), "VIRTIO 1.0"),
}


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only how many


@pytest.mark.parametrize("fault", AT_OPEN)
def test_a_wrong_back_end_is_one_line_at_the_start(rig: Rig, fault: str) -> None:
    request, answer, expected = AT_OPEN[fault]
    rig.backend(wrong={request: answer})
    with pytest.raises(ConfigError) as caught:
        rig.open()
    assert str(caught.value).startswith("disk: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


AT_START = {
    "no memory slots": (Request.GET_MAX_MEM_SLOTS, reply(encode_u64(0)), "GET_MAX_MEM_SLOTS: u64"),
    "memory refused": (Request.ADD_MEM_REG, reply(encode_u64(1)), "ADD_MEM_REG: reply"),
    "an area for requests in flight beyond measure": (
        Request.GET_INFLIGHT_FD,
        reply(INFLIGHT_TOO_LARGE),
        "GET_INFLIGHT_FD: mmap size",
    ),
    "an area without a descriptor": (
        Request.GET_INFLIGHT_FD,
        reply(Inflight(4096, 0, 1, 128).encode()),
        "GET_INFLIGHT_FD: fds",
    ),
    "an end in the middle": (Request.SET_VRING_ADDR, hang_up, "closed the connection"),
    "a ring refused": (Request.SET_VRING_KICK, reply(encode_u64(5)), "SET_VRING_KICK: reply"),
}


@pytest.mark.parametrize("fault", AT_START)
def test_a_back_end_that_fails_later_is_let_go_and_the_next_one_serves(
    rig: Rig, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    request, answer, expected = AT_START[fault]
    first = rig.backend(wrong={request: answer})
    rig.open()
    before = descriptors()
    rig.start()
    assert expected in caplog.text
    first.wrong.clear()
    rig.host.until(lambda: "SET_VRING_ENABLE" in first.names())
    rig.plane.stop()
    assert descriptors() <= before + 12  # the ring's events at both ends, and what is in flight


def half(channel: Channel, message: Message) -> None:
    """The begin of an answer, and nothing more."""
    os.write(channel.fileno(), encode(message.request, encode_u64(0), FLAG_REPLY)[:15])


LEAVING = {"dies": hang_up, "stalls": silence, "stalls within an answer": half}
STARTING = [
    Request.SET_FEATURES,
    Request.SET_STATUS,
    Request.GET_MAX_MEM_SLOTS,
    Request.ADD_MEM_REG,
    Request.GET_INFLIGHT_FD,
    Request.SET_INFLIGHT_FD,
    Request.SET_VRING_ERR,
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_CALL,
    Request.SET_VRING_KICK,
    Request.SET_VRING_ENABLE,
]


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("request_", STARTING, ids=lambda request: request.name)
def test_a_back_end_may_leave_at_any_message_of_the_start(
    rig: Rig, caplog: pytest.LogCaptureFixture, request_: Request, how: str
) -> None:
    rig.limit_s = 0.2
    first = rig.backend(wrong={request_: LEAVING[how]})
    plane = rig.start()
    assert request_.name in first.names(0)
    assert "the back-end is lost" in caplog.text
    first.wrong.clear()
    rig.host.until(lambda: "the back-end is back" in caplog.text)
    assert os.eventfd_read(first.fds[Request.SET_VRING_KICK, 0]) >= 1
    os.eventfd_write(first.fds[Request.SET_VRING_CALL, 0], 1)
    assert rig.interrupts.acquire(timeout=LIMIT_S)
    assert plane.stop() == {0: 0}


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize(
    "request_",
    [Request.SET_VRING_ENABLE, Request.GET_VRING_BASE, Request.SET_STATUS],
    ids=lambda request: request.name,
)
def test_a_back_end_may_leave_at_any_message_of_the_end(
    rig: Rig, caplog: pytest.LogCaptureFixture, request_: Request, how: str
) -> None:
    rig.limit_s = 0.2
    backend = rig.backend(base=4)
    plane = rig.start()
    rig.driver.used_words[1] = 4
    backend.wrong[request_] = LEAVING[how]
    assert plane.stop() == {0: 4}
    assert "the back-end is lost" in caplog.text
    backend.wrong.clear()
    rig.start()
    rig.host.until(lambda: "the back-end is back" in caplog.text)
    assert plane.stop() == {0: 4}


def test_a_back_end_that_tells_of_changes_all_the_time_is_asked_when_there_is_time(rig: Rig) -> None:
    backend = rig.backend()
    plane = rig.open()
    changes: list[bool] = []
    plane.on_config = lambda: changes.append(True)
    backend.wait_for(Request.SET_BACKEND_REQ_FD)
    told = encode(BackendRequest.CONFIG_CHANGE_MSG)
    with socket.socket(fileno=os.dup(backend.fds[Request.SET_BACKEND_REQ_FD, 0])) as sock:
        for _ in range(1000):
            sock.sendall(told)
        sock.sendall(encode(BackendRequest.CONFIG_CHANGE_MSG, flags=FLAG_NEED_REPLY))
        sock.settimeout(LIMIT_S)
        assert sock.recv(20) == encode(BackendRequest.CONFIG_CHANGE_MSG, encode_u64(0), FLAG_REPLY)
    rig.host.until(lambda: bool(changes))
    assert len(changes) == 1


def test_an_answer_to_get_vring_base_that_is_none_stops_at_the_last_answer(rig: Rig) -> None:
    wrong = reply(VringState(3, 1 << 20).encode())
    rig.backend(wrong={Request.GET_VRING_BASE: wrong})
    plane = rig.start()
    rig.driver.used_words[1] = 9
    assert plane.stop() == {0: 9}


def test_requests_of_the_back_ends_own_that_are_none_end_that_channel_only(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    backend = rig.backend()
    plane = rig.start()
    backend.wait_for(Request.SET_BACKEND_REQ_FD)
    os.write(backend.fds[Request.SET_BACKEND_REQ_FD, 0], b"\xff" * 12)
    for _ in range(2000):
        if "not heard any more" in caplog.text:
            break
        threading.Event().wait(0.01)
    rig.kick.write()
    assert os.eventfd_read(backend.fds[Request.SET_VRING_KICK, 0]) == 1
    assert plane.stop() == {0: 0}


def test_nothing_leaks_over_many_connections(rig: Rig) -> None:
    backend = rig.backend()
    rig.start().stop()
    rig.plane.close()
    before = descriptors()
    for _ in range(20):
        rig.plane = None
        rig.start().stop()
        rig.plane.close()
    backend.wait_for(Request.SET_STATUS)
    assert descriptors() <= before + 2


def test_multiqueue_is_asked_for_only_where_it_is_offered(rig: Rig) -> None:
    rig.backend(protocol=0xFFFF & ~PROTOCOL_F_MQ)
    rig.open()
    assert "GET_QUEUE_NUM" not in rig.backends[0].names()


# ---- kicks that the engine lost --------------------------------------------------------------------


def pass_time(clock: GuestClock, ns: int) -> None:
    for _ in range(ns // SOON_NS + 1):
        clock.advance(SOON_NS)


def test_a_ring_that_stands_still_with_a_request_gets_one_kick_more(rig: Rig) -> None:
    backend = rig.backend()
    rig.start()
    kick = backend.fds[Request.SET_VRING_KICK, 0]
    os.set_blocking(kick, False)
    pass_time(rig.host.clock, 10 * SOON_NS)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(kick)
    rig.driver.add(b"request", 512)  # and its doorbell is lost
    pass_time(rig.host.clock, 2 * LATE_NS)
    assert os.eventfd_read(kick) == 1, "one, however long nothing happens"
    rig.driver.add(b"request", 512)
    pass_time(rig.host.clock, 2 * LATE_NS)
    assert os.eventfd_read(kick) == 1


def test_an_answer_whose_interrupt_was_lost_gets_one(rig: Rig) -> None:
    rig.backend()
    rig.start()
    rig.driver.add(b"request", 512)
    rig.driver.used_words[1] = 1
    pass_time(rig.host.clock, 2 * LATE_NS)
    assert rig.interrupts.acquire(timeout=LIMIT_S)
    assert not rig.interrupts.acquire(blocking=False)
