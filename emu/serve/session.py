"""One front-end's session: what it negotiated, its memory and its rings. Source: vhost-user, all of it.

`answer` takes one message and returns the reply, if there is one; no socket is in here. Whatever breaks the
protocol raises ProtocolError, after which the session is good for `close` only. What its guest's driver
breaks stops that ring, which the front-end learns by the ring's error event.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from emu.bus.eventfd import EventFd
from emu.dataplanes.vhost_user.channel import Channel, Message
from emu.dataplanes.vhost_user.inflight import InflightArea, create_area
from emu.dataplanes.vhost_user.messages import (
    ALWAYS_ANSWERED,
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    PROTOCOL_F_BACKEND_REQ,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_INFLIGHT_SHMFD,
    PROTOCOL_F_LOG_SHMFD,
    PROTOCOL_F_MQ,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_F_RESET_DEVICE,
    PROTOCOL_F_STATUS,
    BackendRequest,
    Config,
    Inflight,
    Log,
    ProtocolError,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    decode_regions,
    decode_u64,
    encode_u64,
    expect_empty,
)
from emu.devices.virtio.spec import F_VERSION_1, MAX_QUEUE_SIZE
from emu.serve.backend_requests import backend_channel
from emu.serve.log import DirtyLog
from emu.serve.memory import MAX_SLOTS, close_all
from emu.serve.rings import Rings
from emu.serve.types import RingHost, ServedDevice
from emu.serve.vring import Vring, adopt_event

PROTOCOL_FEATURES: Final = (
    PROTOCOL_F_MQ
    | PROTOCOL_F_LOG_SHMFD
    | PROTOCOL_F_REPLY_ACK
    | PROTOCOL_F_BACKEND_REQ
    | PROTOCOL_F_CONFIG
    | PROTOCOL_F_INFLIGHT_SHMFD
    | PROTOCOL_F_RESET_DEVICE
    | PROTOCOL_F_CONFIGURE_MEM_SLOTS
    | PROTOCOL_F_STATUS
)
NEEDED_FEATURE: Final = {
    Request.SET_LOG_BASE: PROTOCOL_F_LOG_SHMFD,
    Request.SET_BACKEND_REQ_FD: PROTOCOL_F_BACKEND_REQ,
    Request.GET_CONFIG: PROTOCOL_F_CONFIG,
    Request.SET_CONFIG: PROTOCOL_F_CONFIG,
    Request.GET_INFLIGHT_FD: PROTOCOL_F_INFLIGHT_SHMFD,
    Request.SET_INFLIGHT_FD: PROTOCOL_F_INFLIGHT_SHMFD,
    Request.RESET_DEVICE: PROTOCOL_F_RESET_DEVICE,
    Request.GET_MAX_MEM_SLOTS: PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    Request.ADD_MEM_REG: PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    Request.REM_MEM_REG: PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    Request.SET_STATUS: PROTOCOL_F_STATUS,
    Request.GET_STATUS: PROTOCOL_F_STATUS,
}
"""Requests that are legal only once their protocol feature was accepted."""
MAX_STATUS: Final = 0xFF


class Reply(NamedTuple):
    """A reply's payload, and descriptors that are closed once it is sent."""

    body: bytes
    fds: tuple[int, ...] = ()


Handler = Callable[[Message], Reply | None]


class Session:
    """Serves one front-end with `device`, on the thread of `host`; `name` is for the log."""

    def __init__(self, device: ServedDevice, host: RingHost, name: str = "front-end") -> None:
        self.device = device
        self.rings = Rings(device, host, name)
        self._offered_protocol = PROTOCOL_FEATURES & ~device.unused_protocol_features
        for own in device.own_requests.values():
            self._offered_protocol |= own.feature
        self.protocol_features = self.status = 0
        self._log_event: EventFd | None = None
        self._backend: Channel | None = None
        self._handlers = self._table()

    def _table(self) -> dict[int, Handler]:
        return {
            Request.GET_FEATURES: self._get_features,
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: self._set_owner,
            Request.RESET_OWNER: self._reset_owner,
            Request.SET_MEM_TABLE: self._set_mem_table,
            Request.SET_LOG_BASE: self._set_log_base,
            Request.SET_LOG_FD: self._set_log_fd,
            Request.SET_VRING_NUM: self._set_vring_num,
            Request.SET_VRING_ADDR: self._set_vring_addr,
            Request.SET_VRING_BASE: self._set_vring_base,
            Request.GET_VRING_BASE: self._get_vring_base,
            Request.SET_VRING_KICK: self._set_vring_kick,
            Request.SET_VRING_CALL: self._set_vring_call,
            Request.SET_VRING_ERR: self._set_vring_err,
            Request.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            Request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.GET_QUEUE_NUM: self._get_queue_num,
            Request.SET_VRING_ENABLE: self._set_vring_enable,
            Request.SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: self._set_config,
            Request.GET_INFLIGHT_FD: self._get_inflight_fd,
            Request.SET_INFLIGHT_FD: self._set_inflight_fd,
            Request.RESET_DEVICE: self._reset_device,
            Request.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            Request.ADD_MEM_REG: self._add_mem_reg,
            Request.REM_MEM_REG: self._rem_mem_reg,
            Request.SET_STATUS: self._set_status,
            Request.GET_STATUS: self._get_status,
        }

    def answer(self, message: Message) -> Reply | None:
        """Do what a message says; the message keeps none of its descriptors. Raises ProtocolError."""
        try:
            handler, own = self._handlers.get(message.request), self.device.own_requests.get(message.request)
            if own is not None:
                handler, needed = self._own_request, own.feature
            elif handler is not None:
                needed = NEEDED_FEATURE.get(Request(message.request), 0)
            else:
                raise ProtocolError(message.name, "request", "it is not supported")
            if needed & ~self.protocol_features:
                raise ProtocolError(message.name, "request", "its protocol feature was not negotiated")
            reply = handler(message)
            if message.fds:
                close_all(reply.fds if reply is not None else ())
                raise ProtocolError(message.name, "fds", f"{len(message.fds)} came, 0 must")
        finally:
            message.close()
        if reply is None and self.wants_ack(message):
            return Reply(encode_u64(0))
        return reply

    def wants_ack(self, message: Message) -> bool:
        """The front-end waits for 0 (done) or another number (not done)."""
        acked = self.protocol_features & PROTOCOL_F_REPLY_ACK and message.need_reply
        return bool(acked) and message.request not in ALWAYS_ANSWERED

    def close(self) -> None:
        """Stop every ring and release everything. Harmless when repeated."""
        self.rings.close()
        if self._log_event is not None:
            self._log_event.close()
        if self._backend is not None:
            self._backend.close()
        self.device.close()

    def config_changed(self) -> None:
        """Tell the front-end that the device's configuration is another one now. Raises PeerError."""
        if self._backend is not None:
            self._backend.offer(BackendRequest.CONFIG_CHANGE_MSG)

    def _own_request(self, message: Message) -> None:
        value = decode_u64(message.body, message.name)
        if not self.device.own_requests[message.request].handle(value):
            raise ProtocolError(message.name, "u64", f"{value:#x} cannot be")

    # ---- features ----------------------------------------------------------------------------------

    @property
    def offered(self) -> int:
        """The feature bits of GET_FEATURES."""
        return self.device.features | F_VERSION_1 | F_PROTOCOL_FEATURES | F_LOG_ALL

    def _get_features(self, message: Message) -> Reply:
        expect_empty(message.body, message.name)
        return Reply(encode_u64(self.offered))

    def _set_features(self, message: Message) -> None:
        features = decode_u64(message.body, message.name)
        if features & ~self.offered:
            raise ProtocolError(message.name, "u64", f"{features & ~self.offered:#x} was not offered")
        self.rings.pause()
        self.rings.features = features
        self.device.set_features(features & ~(F_PROTOCOL_FEATURES | F_LOG_ALL))
        if not features & F_PROTOCOL_FEATURES:
            for vring in self.rings.vrings:
                vring.enabled = True
        self.rings.resume(message.name)

    def _get_protocol_features(self, message: Message) -> Reply:
        expect_empty(message.body, message.name)
        return Reply(encode_u64(self._offered_protocol))

    def _set_protocol_features(self, message: Message) -> None:
        features = decode_u64(message.body, message.name)
        if surplus := features & ~self._offered_protocol:
            raise ProtocolError(message.name, "u64", f"{surplus:#x} was not offered")
        self.protocol_features = features

    def _get_queue_num(self, message: Message) -> Reply:
        expect_empty(message.body, message.name)
        return Reply(encode_u64(len(self.rings.vrings)))

    def _set_owner(self, message: Message) -> None:
        expect_empty(message.body, message.name)

    def _reset_owner(self, message: Message) -> None:
        expect_empty(message.body, message.name)
        self._disable_all()

    def _reset_device(self, message: Message) -> None:
        expect_empty(message.body, message.name)
        self._disable_all()
        for vring in self.rings.vrings:
            vring.forget_kick()
            vring.base = 0
        self.status = 0

    def _disable_all(self) -> None:
        self.rings.pause()
        for vring in self.rings.vrings:
            vring.enabled = False

    def _set_status(self, message: Message) -> None:
        status = decode_u64(message.body, message.name)
        if status > MAX_STATUS:
            raise ProtocolError(message.name, "u64", f"{status:#x} is no device status")
        self.status = status

    def _get_status(self, message: Message) -> Reply:
        expect_empty(message.body, message.name)
        return Reply(encode_u64(self.status))

    # ---- configuration -----------------------------------------------------------------------------

    def _get_config(self, message: Message) -> Reply:
        wanted = Config.decode(message.body, message.name)
        data = self.device.config(wanted.offset, len(wanted.data))
        if len(data) != len(wanted.data):
            data = b""  # the specification's way to refuse
        return Reply(wanted._replace(data=data).encode() if data else b"")

    def _set_config(self, message: Message) -> None:
        config = Config.decode(message.body, message.name)
        self.device.write_config(config.offset, config.data)

    def _set_backend_req_fd(self, message: Message) -> None:
        expect_empty(message.body, message.name)
        (fd,) = message.take_fds(1)
        channel = backend_channel(fd, message.name)
        if self._backend is not None:
            self._backend.close()
        self._backend = channel

    # ---- memory ------------------------------------------------------------------------------------

    def _set_mem_table(self, message: Message) -> None:
        regions = decode_regions(message.body, message.name)
        fds = message.take_fds(len(regions))
        try:
            self.rings.pause()
            self.rings.memory.replace(regions, fds, message.name)
        finally:
            close_all(fds)
        self.rings.resume(message.name)

    def _get_max_mem_slots(self, message: Message) -> Reply:
        expect_empty(message.body, message.name)
        return Reply(encode_u64(MAX_SLOTS))

    def _add_mem_reg(self, message: Message) -> None:
        region = Region.decode(message.body, message.name)
        fds = message.take_fds(1)
        try:
            self.rings.pause()  # the rings see the new region once they start again
            self.rings.memory.add(region, fds[0], message.name)
        finally:
            close_all(fds)
        self.rings.resume(message.name)

    def _rem_mem_reg(self, message: Message) -> None:
        region = Region.decode(message.body, message.name)
        if len(message.fds) == 1:  # known front-ends send one by mistake
            message.close()
        self.rings.pause()
        self.rings.memory.remove(region, message.name)
        self.rings.resume(message.name)

    # ---- the log and what is in flight -------------------------------------------------------------

    def _set_log_base(self, message: Message) -> Reply:
        wanted = Log.decode(message.body, message.name)
        fds = message.take_fds(1)
        try:
            self.rings.pause()
            self.rings.set_log(DirtyLog(wanted, fds[0], message.name))
        finally:
            close_all(fds)
        self.rings.resume(message.name)
        return Reply(encode_u64(0))

    def _set_log_fd(self, message: Message) -> None:
        expect_empty(message.body, message.name)
        event = adopt_event(message.take_fds(1)[0], message.name)
        if self._log_event is not None:
            self._log_event.close()
        self._log_event = event  # kept, never signalled: front-ends look at the log when they want to

    def _get_inflight_fd(self, message: Message) -> Reply:
        wanted = Inflight.decode(message.body, message.name)
        fd, inflight = create_area(wanted.num_queues, wanted.queue_size, message.name)
        return Reply(inflight.encode(), (fd,))

    def _set_inflight_fd(self, message: Message) -> None:
        inflight = Inflight.decode(message.body, message.name)
        fds = message.take_fds(1)
        try:
            area = InflightArea(inflight, fds[0], message.name)
        finally:
            close_all(fds)
        self.rings.pause()
        self.rings.set_inflight(area)
        self.rings.resume(message.name)

    # ---- vrings ------------------------------------------------------------------------------------

    def _vring(self, index: int, message: Message) -> Vring:
        if index >= len(self.rings.vrings):
            raise ProtocolError(message.name, "index", f"{index}, there are {len(self.rings.vrings)} queues")
        return self.rings.vrings[index]

    def _set_vring_num(self, message: Message) -> None:
        state = VringState.decode(message.body, message.name)
        vring = self._vring(state.vring, message)
        if not 0 < state.num <= MAX_QUEUE_SIZE or state.num & (state.num - 1):
            raise ProtocolError(message.name, "num", f"{state.num}, a power of two up to {MAX_QUEUE_SIZE}")
        self.rings.halt(vring)
        vring.num = state.num
        self.rings.go(vring, message.name)

    def _set_vring_addr(self, message: Message) -> None:
        addr = VringAddr.decode(message.body, message.name)
        vring = self._vring(addr.vring, message)
        self.rings.halt(vring)
        vring.addr = addr
        self.rings.go(vring, message.name)

    def _set_vring_base(self, message: Message) -> None:
        state = VringState.decode(message.body, message.name)
        vring = self._vring(state.vring, message)
        if state.num > 0xFFFF:
            raise ProtocolError(message.name, "num", f"{state.num:#x} is no index of a split ring")
        self.rings.halt(vring)
        vring.base = state.num
        self.rings.go(vring, message.name)

    def _get_vring_base(self, message: Message) -> Reply:
        state = VringState.decode(message.body, message.name)
        vring = self._vring(state.vring, message)
        self.rings.halt(vring)
        vring.forget_kick()
        return Reply(VringState(state.vring, vring.base).encode())

    def _set_vring_kick(self, message: Message) -> None:
        vring, event = self._event(message)
        self.rings.halt(vring)
        vring.set_kick(event)
        self.rings.go(vring, message.name)

    def _set_vring_call(self, message: Message) -> None:
        self.rings.set_call(*self._event(message))

    def _set_vring_err(self, message: Message) -> None:
        vring, event = self._event(message)
        vring.set_error(event)

    def _event(self, message: Message) -> tuple[Vring, EventFd | None]:
        """What the three messages with an event say. The event is the caller's."""
        said = VringFd.decode(message.body, message.name)
        vring = self._vring(said.vring, message)
        if not said.has_fd:
            message.expect_fds(0)
            return vring, None
        return vring, adopt_event(message.take_fds(1)[0], message.name)

    def _set_vring_enable(self, message: Message) -> None:
        state = VringState.decode(message.body, message.name)
        vring = self._vring(state.vring, message)
        if state.num > 1:
            raise ProtocolError(message.name, "num", f"{state.num} is neither 0 nor 1")
        vring.enabled = bool(state.num)
        if vring.enabled:
            self.rings.go(vring, message.name)
        else:
            self.rings.halt(vring)
