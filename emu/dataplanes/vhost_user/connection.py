"""One connection to a back-end, from the front-end's side: negotiation, and each request as a call.

Source: QEMU docs/interop/vhost-user.rst. Everything waits for its answer, bounded by the channel's limit.
Raises PeerError (ProtocolError names message and field) for whatever the back-end does wrong; the connection
is good for `close` only after that.
"""

import os
from typing import Final, NamedTuple

from emu.bus.memory import GuestMemory
from emu.dataplanes.vhost_user.channel import Channel
from emu.dataplanes.vhost_user.messages import (
    CONFIG_WRITABLE,
    F_PROTOCOL_FEATURES,
    FLAG_NEED_REPLY,
    MAX_CONFIG,
    MAX_REGIONS,
    PROTOCOL_F_BACKEND_REQ,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_INFLIGHT_SHMFD,
    PROTOCOL_F_LOG_SHMFD,
    PROTOCOL_F_MQ,
    PROTOCOL_F_MTU,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_F_STATUS,
    Config,
    Inflight,
    Log,
    ProtocolError,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    decode_u64,
    encode_regions,
    encode_u64,
)

PROTOCOL_FEATURES: Final = (
    PROTOCOL_F_MQ
    | PROTOCOL_F_LOG_SHMFD
    | PROTOCOL_F_REPLY_ACK
    | PROTOCOL_F_MTU
    | PROTOCOL_F_BACKEND_REQ
    | PROTOCOL_F_CONFIG
    | PROTOCOL_F_INFLIGHT_SHMFD
    | PROTOCOL_F_CONFIGURE_MEM_SLOTS
    | PROTOCOL_F_STATUS
)
"""What this front-end can do."""
USER_BASE: Final = 0x1000_0000_0000
"""User address of guest address 0: only the back-end's arithmetic uses it, nothing is mapped there."""
MAX_INFLIGHT: Final = 64 << 20
"""Bytes of an area for requests in flight; 1024 queues of 1024 entries take half of it."""


def user_address(gpa: int) -> int:
    """What stands for a guest address in SET_VRING_ADDR."""
    return USER_BASE + gpa


class InflightArea(NamedTuple):
    """What GET_INFLIGHT_FD answered; the descriptor is the holder's to close."""

    fd: int
    shape: Inflight

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


class Connection:
    """A negotiated connection. `features` is what the back-end offers, `protocol` what both can do.

    `wanted` are the protocol features to use, `queues` how many the device has.
    """

    def __init__(self, channel: Channel, queues: int, wanted: int = PROTOCOL_FEATURES) -> None:
        self.channel = channel
        self.protocol = 0
        self.features = self.get_features()
        if self.features & F_PROTOCOL_FEATURES:
            self.protocol = self._ask_u64(Request.GET_PROTOCOL_FEATURES) & wanted
            self._tell(Request.SET_PROTOCOL_FEATURES, encode_u64(self.protocol))
        self.max_queues = 1 if queues == 1 else queues
        if self.protocol & PROTOCOL_F_MQ:
            self.max_queues = self._ask_u64(Request.GET_QUEUE_NUM)
        if self.max_queues < queues:
            raise ProtocolError(
                "GET_QUEUE_NUM", "u64", f"the back-end serves {self.max_queues} queues, {queues} are wanted"
            )
        self._tell(Request.SET_OWNER)

    def close(self) -> None:
        """End the connection. Harmless when repeated."""
        self.channel.close()

    # ---- features, configuration, status -----------------------------------------------------------

    def get_features(self) -> int:
        """What the back-end offers; its answer also says that everything before is done."""
        return self._ask_u64(Request.GET_FEATURES)

    def set_features(self, features: int) -> None:
        """What the driver accepted."""
        self._tell(Request.SET_FEATURES, encode_u64(features))

    def get_config(self, size: int) -> bytes:
        """The first `size` bytes of the device's configuration; the back-end must have them all."""
        self._need(PROTOCOL_F_CONFIG, "GET_CONFIG", "CONFIG")
        size = min(size, MAX_CONFIG)
        body = self._ask(Request.GET_CONFIG, Config(0, CONFIG_WRITABLE, bytes(size)).encode())
        if not body:
            raise ProtocolError("GET_CONFIG", "size", "the back-end refuses it")
        config = Config.decode(body, "GET_CONFIG")
        if config.offset or len(config.data) != size:
            raise ProtocolError(
                "GET_CONFIG", "config size", f"{len(config.data)} bytes at {config.offset} for {size} at 0"
            )
        return config.data

    def set_config(self, offset: int, data: bytes) -> None:
        """The driver writes the configuration."""
        self._need(PROTOCOL_F_CONFIG, "SET_CONFIG", "CONFIG")
        self._tell(Request.SET_CONFIG, Config(offset, CONFIG_WRITABLE, data).encode())

    def set_mtu(self, mtu: int) -> None:
        """What the card tells its driver; nothing where the back-end does not want it."""
        if self.protocol & PROTOCOL_F_MTU:
            self._tell(Request.NET_SET_MTU, encode_u64(mtu))

    def set_status(self, status: int) -> None:
        """The device status that the driver wrote; nothing where the back-end does not want it."""
        if self.protocol & PROTOCOL_F_STATUS:
            self._tell(Request.SET_STATUS, encode_u64(status))

    def _need(self, bit: int, message: str, name: str) -> None:
        if not self.protocol & bit:
            raise ProtocolError(message, "protocol features", f"the back-end has no {name}")

    # ---- memory ------------------------------------------------------------------------------------

    def set_memory(self, memory: GuestMemory) -> None:
        """Hand over all of the guest's RAM; once a connection."""
        regions = [Region(r.gpa, r.size, user_address(r.gpa), r.offset) for r in memory.ranges]
        if self.protocol & PROTOCOL_F_CONFIGURE_MEM_SLOTS:
            slots = self._ask_u64(Request.GET_MAX_MEM_SLOTS)
            if slots < len(regions):
                raise ProtocolError("GET_MAX_MEM_SLOTS", "u64", f"{slots} slots, {len(regions)} are needed")
            for region in regions:
                self._tell(Request.ADD_MEM_REG, region.encode(), memory.fd)
        else:
            assert len(regions) <= MAX_REGIONS
            self._tell(Request.SET_MEM_TABLE, encode_regions(regions), *[memory.fd] * len(regions))

    def set_log(self, fd: int, log: Log) -> None:
        """Where the back-end notes which pages it wrote; None of it is used before F_LOG_ALL is set."""
        self._need(PROTOCOL_F_LOG_SHMFD, "SET_LOG_BASE", "LOG_SHMFD")
        self.channel.send(Request.SET_LOG_BASE, log.encode(), (fd,))
        self.channel.receive_reply(Request.SET_LOG_BASE)

    def set_backend_channel(self, fd: int) -> bool:
        """Give the back-end a socket for requests of its own; False where it wants none."""
        if not self.protocol & PROTOCOL_F_BACKEND_REQ:
            return False
        self._tell(Request.SET_BACKEND_REQ_FD, b"", fd)
        return True

    # ---- requests in flight ------------------------------------------------------------------------

    def get_inflight(self, queues: int, queue_size: int) -> InflightArea:
        """Memory that outlives the back-end, where it notes what it has taken (INFLIGHT_SHMFD)."""
        name = "GET_INFLIGHT_FD"
        self.channel.send(Request.GET_INFLIGHT_FD, Inflight(0, 0, queues, queue_size).encode())
        message = self.channel.receive_reply_message(Request.GET_INFLIGHT_FD)
        try:
            shape = Inflight.decode(message.body, name)
            if not 0 < shape.mmap_size <= MAX_INFLIGHT:
                raise ProtocolError(name, "mmap size", f"{shape.mmap_size} bytes, limit {MAX_INFLIGHT}")
            (fd,) = message.take_fds(1)
        finally:
            message.close()
        return InflightArea(fd, Inflight(shape.mmap_size, shape.mmap_offset, queues, queue_size))

    def set_inflight(self, area: InflightArea) -> None:
        """Give it back: to the same back-end, or to the next one."""
        self._tell(Request.SET_INFLIGHT_FD, area.shape.encode(), area.fd)

    # ---- vrings ------------------------------------------------------------------------------------

    def start_vring(
        self, index: int, num: int, desc: int, avail: int, used: int, base: int, *, kick: int, call: int
    ) -> None:
        """Let the back-end serve a ring at these guest addresses, from available index `base` on."""
        self._tell(Request.SET_VRING_NUM, VringState(index, num).encode())
        self._tell(Request.SET_VRING_BASE, VringState(index, base).encode())
        addr = VringAddr(index, 0, user_address(desc), user_address(used), user_address(avail), used)
        self._tell(Request.SET_VRING_ADDR, addr.encode())
        self._tell(Request.SET_VRING_CALL, VringFd(index, True).encode(), call)
        self._tell(Request.SET_VRING_KICK, VringFd(index, True).encode(), kick)
        if self.features & F_PROTOCOL_FEATURES:
            self.enable_vring(index, True)

    def set_error_event(self, index: int, fd: int) -> None:
        """What the back-end signals when it gives a ring up."""
        self._tell(Request.SET_VRING_ERR, VringFd(index, True).encode(), fd)

    def enable_vring(self, index: int, on: bool) -> None:
        """Pass data through the ring, or leave it alone."""
        self._tell(Request.SET_VRING_ENABLE, VringState(index, int(on)).encode())

    def stop_vring(self, index: int) -> int:
        """The ring is the front-end's again; returns the available index that comes next."""
        if self.features & F_PROTOCOL_FEATURES:
            self.enable_vring(index, False)
        body = self._ask(Request.GET_VRING_BASE, VringState(index, 0).encode())
        state = VringState.decode(body, "GET_VRING_BASE")
        if state.vring != index or state.num > 0xFFFF:
            raise ProtocolError("GET_VRING_BASE", "num", f"vring {state.vring} at {state.num}")
        return state.num

    # ---- the wire ----------------------------------------------------------------------------------

    def _tell(self, request: Request, body: bytes = b"", *fds: int) -> None:
        """Send, and wait for the acknowledgement where one can be had."""
        ack = bool(self.protocol & PROTOCOL_F_REPLY_ACK) and request is not Request.SET_PROTOCOL_FEATURES
        self.channel.send(request, body, fds, FLAG_NEED_REPLY if ack else 0)
        if ack and (status := decode_u64(self.channel.receive_reply(request), request.name)):
            raise ProtocolError(request.name, "reply", f"the back-end refuses it with {status:#x}")

    def _ask(self, request: Request, body: bytes = b"") -> bytes:
        self.channel.send(request, body)
        return self.channel.receive_reply(request)

    def _ask_u64(self, request: Request) -> int:
        return decode_u64(self._ask(request), request.name)
