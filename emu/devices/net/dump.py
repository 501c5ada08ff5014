"""Frames into a pcap file: `-object filter-dump`, and `emu serve vhost-user-net --pcap`.

Source: the format of libpcap, version 2.4, with microseconds. Frames are written as they pass: what is left
to the card (a checksum, the cutting of a large packet) is not done yet.
"""

import logging
import os
import struct
import time
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.bus.output_file import failure, open_output
from emu.devices.net.types import Buffers, NetBackend, Offload
from emu.errors import ConfigError

log = logging.getLogger("emu.net")

FILE_HEADER: Final = struct.Struct("<IHHiIII")  # magic, version, zone, accuracy, longest record, link type
RECORD: Final = struct.Struct("<IIII")  # seconds, microseconds, bytes in the file, bytes of the frame
MAGIC: Final = 0xA1B2C3D4
ETHERNET: Final = 1
MAX_LENGTH: Final = 65536
"""Bytes kept of each frame, by default as in QEMU."""
PIECES: Final = 512
"""Buffers that one writev takes; a frame in more of them is joined."""


class PcapFile:
    """Writes frames into the file `path`, each at once. Raises ConfigError; `where` is its flag.

    Where the file takes no more, that is said once and the rest is not kept.
    """

    def __init__(self, where: str, path: str, max_length: int = MAX_LENGTH) -> None:
        self._path, self._max_length = path, max_length
        self.costs = Costs()
        self._fd = -1
        try:
            self._fd = open_output(path, 0o644)
            os.write(self._fd, FILE_HEADER.pack(MAGIC, 2, 4, 0, 0, max_length, ETHERNET))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        except OSError as error:
            self.close()
            raise ConfigError(f"{where}: {failure(path, error)}") from None

    def write(self, frame: Buffers) -> None:
        """One frame, now."""
        if self._fd < 0:
            return
        length = sum(map(len, frame))
        kept = min(length, self._max_length)
        seconds, ns = divmod(time.time_ns(), 1_000_000_000)
        record = RECORD.pack(seconds, ns // 1000, kept, length)
        if kept < length or len(frame) >= PIECES:
            frame = [memoryview(b"".join(frame)[:kept])]
        self.costs.syscalls += 1
        self.costs.bytes_copied += kept
        try:
            done = os.writev(self._fd, [record, *frame])
            why = "" if done == RECORD.size + kept else "no room"
        except OSError as error:
            why = str(error.strerror)
        if why:
            log.warning("%s: %s; frames from here on are not kept", self._path, why)
            self.close()

    def close(self) -> None:
        """No more; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Dumped:
    """A `NetBackend`: `backend`, every frame of which is written to `file`, which is not its own."""

    def __init__(self, backend: NetBackend, file: PcapFile) -> None:
        self._backend, self._file = backend, file
        self.name, self.guest_features = backend.name, backend.guest_features
        self.fd = backend.fd

    @property
    def costs(self) -> Costs:
        """See `NetBackend`: without those of the file."""
        return self._backend.costs

    @property
    def on_ready(self) -> Callable[[], None]:
        """See `NetBackend`."""
        return self._backend.on_ready

    @on_ready.setter
    def on_ready(self, call: Callable[[], None]) -> None:
        self._backend.on_ready = call

    @property
    def on_link(self) -> Callable[[bool], None]:
        """See `NetBackend`."""
        return self._backend.on_link

    @on_link.setter
    def on_link(self, call: Callable[[bool], None]) -> None:
        self._backend.on_link = call

    @property
    def link_up(self) -> bool:
        """See `NetBackend`."""
        return self._backend.link_up

    def accept(self, features: int) -> None:
        """See `NetBackend`."""
        self._backend.accept(features)

    @property
    def left(self) -> Offload | None:
        """See `NetBackend`."""
        return self._backend.left

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        self._file.write(frame)
        self._backend.send(frame, offload)

    def receive(self) -> bytes | bytearray | memoryview | None:
        """See `NetBackend`."""
        frame = self._backend.receive()
        if frame is not None:
            self._file.write([memoryview(frame)])
        return frame

    def close(self) -> None:
        """See `NetBackend`."""
        self._backend.close()
