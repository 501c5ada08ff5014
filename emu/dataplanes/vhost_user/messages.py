"""vhost-user messages: bytes in, values out, and back. No socket, no descriptor.

Source: QEMU docs/interop/vhost-user.rst. Names are those of that text without the prefix VHOST_USER_; numbers
are little-endian. Every payload has `encode` and a checked `decode`; what is not as it must be raises
ProtocolError, which names the message and the field.
"""

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from emu.errors import PeerError

HEADER: Final = struct.Struct("<III")  # request, flags, payload size in bytes
VERSION_MASK: Final = 3
VERSION: Final = 1
FLAG_REPLY: Final = 1 << 2
FLAG_NEED_REPLY: Final = 1 << 3
KNOWN_FLAGS: Final = VERSION_MASK | FLAG_REPLY | FLAG_NEED_REPLY
MAX_PAYLOAD: Final = 4096
"""Bytes; more than any message has. Ours: what a peer can make us keep."""
MAX_FDS: Final = 8
MAX_REGIONS: Final = 8
"""Regions in SET_MEM_TABLE; memory slots (ADD_MEM_REG) may be more."""
MAX_CONFIG: Final = 256

VRING_INDEX_MASK: Final = 0xFF
VRING_NO_FD: Final = 1 << 8
VRING_F_LOG: Final = 1
CONFIG_WRITABLE: Final = 0  # flags of SET_CONFIG
CONFIG_MIGRATION: Final = 1

# feature bits beside those of virtio
F_LOG_ALL: Final = 1 << 26
F_PROTOCOL_FEATURES: Final = 1 << 30

# protocol feature bits
PROTOCOL_F_MQ: Final = 1 << 0
PROTOCOL_F_LOG_SHMFD: Final = 1 << 1
PROTOCOL_F_RARP: Final = 1 << 2
PROTOCOL_F_REPLY_ACK: Final = 1 << 3
PROTOCOL_F_MTU: Final = 1 << 4
PROTOCOL_F_BACKEND_REQ: Final = 1 << 5
PROTOCOL_F_CROSS_ENDIAN: Final = 1 << 6
PROTOCOL_F_CRYPTO_SESSION: Final = 1 << 7
PROTOCOL_F_PAGEFAULT: Final = 1 << 8
PROTOCOL_F_CONFIG: Final = 1 << 9
PROTOCOL_F_BACKEND_SEND_FD: Final = 1 << 10
PROTOCOL_F_HOST_NOTIFIER: Final = 1 << 11
PROTOCOL_F_INFLIGHT_SHMFD: Final = 1 << 12
PROTOCOL_F_RESET_DEVICE: Final = 1 << 13
PROTOCOL_F_INBAND_NOTIFICATIONS: Final = 1 << 14
PROTOCOL_F_CONFIGURE_MEM_SLOTS: Final = 1 << 15
PROTOCOL_F_STATUS: Final = 1 << 16


class Request(enum.IntEnum):
    """What a front-end asks of a back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(enum.IntEnum):
    """What a back-end asks of a front-end, on the channel of SET_BACKEND_REQ_FD."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5


ALWAYS_ANSWERED: Final = frozenset(
    {
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_VRING_BASE,
        Request.GET_QUEUE_NUM,
        Request.GET_CONFIG,
        Request.GET_INFLIGHT_FD,
        Request.GET_MAX_MEM_SLOTS,
        Request.GET_STATUS,
    }
)
"""Requests with a reply of their own, whatever was negotiated; SET_LOG_BASE joins with LOG_SHMFD."""


class ProtocolError(PeerError):
    """The other end of a vhost-user connection broke the protocol: which message, which field, how."""

    def __init__(self, message: str, field: str, fault: str) -> None:
        super().__init__(f"vhost-user {message}: {field}: {fault}")
        self.message, self.field = message, field


class Header(NamedTuple):
    """The first 12 bytes of each message. `size` is that of the payload."""

    request: int
    flags: int
    size: int

    @classmethod
    def decode(cls, data: bytes, names: type[enum.IntEnum] = Request) -> Self:
        """Raises ProtocolError for another version, unknown flags or a payload beyond MAX_PAYLOAD."""
        header = cls(*HEADER.unpack(data))
        name = request_name(header.request, names)
        if header.flags & VERSION_MASK != VERSION:
            raise ProtocolError(name, "flags", f"{header.flags:#x} is not version {VERSION}")
        if header.flags & ~KNOWN_FLAGS:
            raise ProtocolError(name, "flags", f"{header.flags:#x} has unknown bits")
        if header.size > MAX_PAYLOAD:
            raise ProtocolError(name, "size", f"{header.size} bytes, at most {MAX_PAYLOAD} are possible")
        return header


def encode(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One message; `flags` beside the version: FLAG_REPLY, FLAG_NEED_REPLY."""
    return HEADER.pack(request, VERSION | flags, len(payload)) + payload


def request_name(request: int, names: type[enum.IntEnum] = Request) -> str:
    """Its name, for messages to people."""
    try:
        return names(request).name
    except ValueError:
        return f"request {request}"


def _unpack(layout: struct.Struct, data: bytes, message: str) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise ProtocolError(message, "size", f"{len(data)} bytes of payload, {layout.size} are needed")
    return layout.unpack(data)


_U64: Final = struct.Struct("<Q")
_STATE: Final = struct.Struct("<II")
_ADDR: Final = struct.Struct("<IIQQQQ")
_TABLE: Final = struct.Struct("<II")
_REGION: Final = struct.Struct("<QQQQ")
_SINGLE_REGION: Final = struct.Struct("<QQQQQ")
_LOG: Final = struct.Struct("<QQ")
_IOTLB: Final = struct.Struct("<QQQBB6x")
_CONFIG: Final = struct.Struct("<III")
_AREA: Final = struct.Struct("<QQQ")
_INFLIGHT: Final = struct.Struct("<QQHH4x")  # a C structure with its padding at the end
_SHORT_INFLIGHT_BYTES: Final = 20


def expect_empty(data: bytes, message: str) -> None:
    """A message without payload. Raises ProtocolError where there is one."""
    if data:
        raise ProtocolError(message, "size", f"{len(data)} bytes of payload, 0 are needed")


def encode_u64(value: int) -> bytes:
    """The payload of features, acknowledgements, status and counts."""
    return _U64.pack(value)


def decode_u64(data: bytes, message: str) -> int:
    """The other way round. Raises ProtocolError."""
    return _unpack(_U64, data, message)[0]


class VringFd(NamedTuple):
    """Payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR; without a descriptor: poll instead."""

    vring: int
    has_fd: bool

    def encode(self) -> bytes:
        """As on the wire."""
        return _U64.pack(self.vring | (0 if self.has_fd else VRING_NO_FD))

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        value = decode_u64(data, message)
        if value & ~(VRING_INDEX_MASK | VRING_NO_FD):
            raise ProtocolError(message, "u64", f"{value:#x} has bits beside index and no-fd flag")
        return cls(value & VRING_INDEX_MASK, not value & VRING_NO_FD)


class VringState(NamedTuple):
    """A vring's index and a number: its size, its base, or whether it is enabled."""

    vring: int
    num: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _STATE.pack(*self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        return cls(*_unpack(_STATE, data, message))


class VringAddr(NamedTuple):
    """Payload of SET_VRING_ADDR: user addresses of the three parts, a guest address for the log."""

    vring: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _ADDR.pack(*self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        addr = cls(*_unpack(_ADDR, data, message))
        if addr.flags & ~VRING_F_LOG:
            raise ProtocolError(message, "flags", f"{addr.flags:#x} has unknown bits")
        return addr


class Region(NamedTuple):
    """A piece of guest memory: `size` bytes from `mmap_offset` of a descriptor on, with two addresses."""

    guest_addr: int
    size: int
    user_addr: int
    mmap_offset: int

    def encode(self) -> bytes:
        """As on the wire in ADD_MEM_REG and REM_MEM_REG."""
        return _SINGLE_REGION.pack(0, *self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """The payload of ADD_MEM_REG and REM_MEM_REG. Raises ProtocolError."""
        _padding, *fields = _unpack(_SINGLE_REGION, data, message)
        return cls(*fields).checked(message, "region")

    def checked(self, message: str, field: str) -> Self:
        """Itself. Raises ProtocolError where it is empty or passes the end of an address space."""
        if not self.size:
            raise ProtocolError(message, f"{field} size", "0 bytes")
        for name in ("guest_addr", "user_addr", "mmap_offset"):
            at: int = getattr(self, name)
            if at + self.size > 1 << (63 if name == "mmap_offset" else 64):
                raise ProtocolError(
                    message, f"{field} {name}", f"{at:#x} + {self.size:#x} bytes is beyond its end"
                )
        return self


def encode_regions(regions: Sequence[Region]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    return _TABLE.pack(len(regions), 0) + b"".join(_REGION.pack(*region) for region in regions)


def decode_regions(data: bytes, message: str = "SET_MEM_TABLE") -> list[Region]:
    """The payload of SET_MEM_TABLE; no two regions overlap. Raises ProtocolError."""
    if len(data) < _TABLE.size:
        raise ProtocolError(message, "size", f"{len(data)} bytes of payload, {_TABLE.size} are needed")
    count, _padding = _TABLE.unpack_from(data)
    if not 0 < count <= MAX_REGIONS:
        raise ProtocolError(message, "num regions", f"{count}, 1 to {MAX_REGIONS} are possible")
    wanted = _TABLE.size + count * _REGION.size
    # a front-end may send room for all eight
    if len(data) not in (wanted, _TABLE.size + MAX_REGIONS * _REGION.size):
        raise ProtocolError(message, "size", f"{len(data)} bytes of payload, {wanted} are needed")
    regions: list[Region] = []
    for i in range(count):
        region = Region(*_REGION.unpack_from(data, _TABLE.size + i * _REGION.size))
        regions.append(region.checked(message, f"region {i}"))
        check_disjoint(regions[:i], region, message, f"region {i}")
    return regions


def check_disjoint(regions: Sequence[Region], new: Region, message: str, field: str) -> None:
    """Raises ProtocolError where `new` shares a guest or a user address with one of `regions`."""
    for other in regions:
        for name in ("guest_addr", "user_addr"):
            mine: int = getattr(new, name)
            theirs: int = getattr(other, name)
            if mine < theirs + other.size and theirs < mine + new.size:
                raise ProtocolError(
                    message,
                    f"{field} {name}",
                    f"{mine:#x} + {new.size:#x} bytes overlaps the region at {theirs:#x}",
                )


class Log(NamedTuple):
    """Payload of SET_LOG_BASE with LOG_SHMFD: bytes of the log, and where it begins in its descriptor."""

    size: int
    offset: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _LOG.pack(*self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        log = cls(*_unpack(_LOG, data, message))
        if not log.size or log.size + log.offset >= 1 << 63:
            raise ProtocolError(message, "log size", f"{log.size:#x} bytes at {log.offset:#x}")
        return log


class Iotlb(NamedTuple):
    """Payload of IOTLB_MSG; `kind` 1 miss, 2 update, 3 invalidate, 4 access failure."""

    iova: int
    size: int
    user_addr: int
    permissions: int
    kind: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _IOTLB.pack(*self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        entry = cls(*_unpack(_IOTLB, data, message))
        if entry.permissions > 3 or not 1 <= entry.kind <= 4:
            raise ProtocolError(message, "type", f"{entry.kind} with permissions {entry.permissions}")
        return entry


class Config(NamedTuple):
    """Payload of GET_CONFIG and SET_CONFIG: bytes of the device's configuration from `offset` on."""

    offset: int
    flags: int
    data: bytes

    def encode(self) -> bytes:
        """As on the wire."""
        return _CONFIG.pack(self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        if len(data) < _CONFIG.size:
            raise ProtocolError(message, "size", f"{len(data)} bytes of payload, {_CONFIG.size} are needed")
        offset, size, flags = _CONFIG.unpack_from(data)
        content = data[_CONFIG.size :]
        if size != len(content):
            raise ProtocolError(message, "config size", f"{size} bytes, {len(content)} came")
        if not 0 < size <= MAX_CONFIG or offset + size > MAX_CONFIG:
            raise ProtocolError(message, "config offset", f"{size} bytes at {offset}, limit {MAX_CONFIG}")
        if flags not in (CONFIG_WRITABLE, CONFIG_MIGRATION):
            raise ProtocolError(message, "config flags", f"{flags:#x} is unknown")
        return cls(offset, flags, content)


class VringArea(NamedTuple):
    """Payload of VRING_HOST_NOTIFIER_MSG."""

    vring: int
    has_fd: bool
    size: int
    offset: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _AREA.pack(self.vring | (0 if self.has_fd else VRING_NO_FD), self.size, self.offset)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError."""
        value, size, offset = _unpack(_AREA, data, message)
        return cls(value & VRING_INDEX_MASK, not value & VRING_NO_FD, size, offset)


class Inflight(NamedTuple):
    """Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD: the area, and the shape of what is in it."""

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int

    def encode(self) -> bytes:
        """As on the wire."""
        return _INFLIGHT.pack(*self)

    @classmethod
    def decode(cls, data: bytes, message: str) -> Self:
        """Raises ProtocolError. The fields alone, as the specification lists them, are taken, too."""
        if len(data) == _SHORT_INFLIGHT_BYTES:
            data = data.ljust(_INFLIGHT.size, b"\0")
        inflight = cls(*_unpack(_INFLIGHT, data, message))
        if inflight.mmap_size + inflight.mmap_offset >= 1 << 63:
            raise ProtocolError(
                message, "mmap size", f"{inflight.mmap_size:#x} bytes at {inflight.mmap_offset:#x}"
            )
        return inflight
