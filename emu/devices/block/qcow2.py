"""A qcow2 image, read through dissect.hypervisor (imported only here, and only when such an image is opened).

The chain of backing files is opened here and not by the library: a backing file without a stated format is
taken as raw unless its magic says qcow2, reads beyond a shorter backing file are zeroes, and a chain that
bites its tail is an error. Source: QEMU docs/interop/qcow2.txt.
"""

import errno
import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from emu.bus.costs import Costs
from emu.config import FilePath
from emu.devices.block.open import QCOW2_MAGIC
from emu.devices.block.raw import check_size, open_locked
from emu.errors import ConfigError, MediumError

BACKING_FIELDS = struct.Struct(">8xQI")  # magic and version skipped; backing_file_offset, backing_file_size
MAX_NAME = 1023  # the format's limit for a backing file's name
MAX_CHAIN = 16


class _Stream(Protocol):
    """What is used of a guest-visible disk's stream."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, length: int, /) -> bytes: ...


class _Padded:
    """A backing disk that goes on as zeroes beyond its end."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)

    def read(self, length: int) -> bytes:
        return self._stream.read(length).ljust(length, b"\x00")


class Qcow2Image:
    """A read-only medium; what is to be written goes over it (`Overlay`). Raises ConfigError."""

    def __init__(self, path: FilePath) -> None:
        self._path = str(path)
        self._files: list[io.BufferedReader] = []
        try:
            self._stream, self.size = self._open(Path(path), 0)
            check_size(path, self.size)
        except BaseException:
            self.close()
            raise
        self.read_only = True
        self.costs = Costs()

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the byte views `buffers` in order from byte `offset` on. Raises MediumError.

        One system call is counted for each buffer; the library makes more for its tables.
        """
        for buffer in buffers:
            length = len(buffer)
            self.costs.syscalls += 1
            try:
                self._stream.seek(offset)
                data = self._stream.read(length)
            except OSError as error:
                raise MediumError(f"{self._path}: {error.strerror}", error.errno or errno.EIO) from error
            except Exception as error:  # a damaged image may raise anything in the library
                raise MediumError(f"{self._path}: damaged at byte {offset}: {error}", errno.EIO) from error
            if len(data) != length:
                raise MediumError(f"{self._path}: damaged at byte {offset}", errno.EIO)
            buffer[:] = data
            self.costs.bytes_copied += length
            offset += length

    def writev(self, offset: int, buffers: Sequence[memoryview | bytes]) -> None:  # noqa: ARG002 - protocol
        """Raise MediumError: the medium is read-only."""
        raise self._refusal()

    def flush(self) -> None:
        """Nothing was written."""

    def discard(self, offset: int, length: int) -> None:  # noqa: ARG002 - protocol
        """Raise MediumError: the medium is read-only."""
        raise self._refusal()

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:  # noqa: ARG002 - protocol
        """Raise MediumError: the medium is read-only."""
        raise self._refusal()

    def close(self) -> None:
        """Release every file of the chain."""
        while self._files:
            self._files.pop().close()

    def _refusal(self) -> MediumError:
        return MediumError(f"{self._path}: {os.strerror(errno.EROFS)}", errno.EROFS)

    def _open(self, path: Path, depth: int) -> tuple[_Stream, int]:
        """Open one image of the chain and what is below it; return its stream and size in bytes."""
        from dissect.hypervisor.disk.qcow2 import QCow2  # noqa: PLC0415 - 100 ms that raw disks need not pay

        if depth == MAX_CHAIN:
            raise ConfigError(f"{self._path}: more than {MAX_CHAIN} backing files; does the chain loop?")
        file = self._open_file(path)
        try:
            image = QCow2(file, allow_no_data_file=True, allow_no_backing_file=True)
            if image.needs_data_file:
                raise ConfigError(f'{path}: has an external data file; try "qemu-img convert -O raw"')
            if image.needs_backing_file:
                below = self._backing_path(path, file)
                image.backing_file = self._open_backing(below, image.backing_format, depth + 1)
            return image.open(), int(image.size)
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # a damaged image may raise anything in the library
            raise ConfigError(
                f'{path}: not a usable qcow2 image ({str(error) or "truncated"}); see "qemu-img check {path}"'
            ) from error

    def _open_file(self, path: Path) -> io.BufferedReader:
        file = os.fdopen(open_locked(path, read_only=True), "rb")
        self._files.append(file)
        return file

    def _open_backing(self, path: Path, stated: str | None, depth: int) -> _Stream:
        file = self._open_file(path)
        is_qcow2 = stated == "QCOW2" or (stated is None and file.peek(4)[:4] == QCOW2_MAGIC)
        if not is_qcow2:
            return _Padded(file)
        self._files.pop().close()
        return _Padded(self._open(path, depth)[0])

    def _backing_path(self, path: Path, file: io.BufferedReader) -> Path:
        """The backing file's name, relative to the image that names it."""
        file.seek(0)
        offset, length = BACKING_FIELDS.unpack(file.read(BACKING_FIELDS.size))
        if length > MAX_NAME:
            raise ConfigError(f"{path}: a backing file name of {length} bytes; the limit is {MAX_NAME}")
        file.seek(offset)
        return path.parent / os.fsdecode(file.read(length))
