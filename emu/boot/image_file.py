"""A file the user names as an image, read in bounds: each failure is one line for the user."""

import errno
import os
import stat
from types import TracebackType

from emu.boot.entry import LoadMemory
from emu.config import FilePath
from emu.errors import ConfigError

_CHUNK = 1 << 24  # one read call's worth; Linux cuts reads at 2 GiB


class ImageFile:
    """An open image. Raises ConfigError where it cannot be opened or ends too early.

    With `fd` it is that open file, which is closed in the end, and `path` only its name in errors.
    """

    def __init__(self, path: FilePath, fd: int | None = None) -> None:
        self.name = os.fspath(path)
        try:
            # without O_NONBLOCK a named pipe would hang here
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if fd is None else fd
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{self.name}: cannot be read: {reason}; check the path") from error
        try:
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            os.pread(self._fd, 1, 0)
            if stat.S_ISCHR(os.fstat(self._fd).st_mode):
                raise OSError(errno.EINVAL, "It is a device")
        except OSError as error:
            os.close(self._fd)
            raise ConfigError(f"{self.name}: cannot be read: {error.strerror}; name a file") from error

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def fileno(self) -> int:
        """The open file."""
        return self._fd

    def head(self, length: int, offset: int = 0) -> bytes:
        """Up to `length` bytes; fewer where the file ends."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self.error(
                f"cannot be read at byte {offset:#x}: {error.strerror}", "copy it again"
            ) from error

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Exactly `length` bytes; `what` says in an error what was looked for."""
        self.check(offset, length, what)
        data = bytearray(length)
        self.read_into(offset, memoryview(data), what)
        return bytes(data)

    def read_into(self, offset: int, into: memoryview, what: str) -> None:
        """Fill `into` from `offset` on, without a copy."""
        self.check(offset, len(into), what)
        done = 0
        while done < len(into):
            try:
                got = os.preadv(self._fd, [into[done : done + _CHUNK]], offset + done)
            except OSError as error:
                raise self.error(f"{what} cannot be read: {error.strerror}", "copy it again") from error
            if not got:
                raise self.error(f"truncated while it was read: {what} is incomplete", "copy it again")
            done += got

    def load(
        self, memory: LoadMemory, gpa: int, offset: int, length: int, what: str, *, size: int | None = None
    ) -> None:
        """Put `length` bytes from `offset` on at `gpa` of the guest's RAM, zeros behind them up to `size`."""
        self.check(offset, length, what)
        try:
            memory.load(gpa, length, self._fd, offset)
            self.size = os.fstat(self._fd).st_size or self.size  # 0: a device
        except OSError as error:
            raise self.error(f"{what} cannot be read: {error.strerror}", "copy it again") from error
        self.check(offset, length, what)  # truncated while it was read
        whole = length if size is None else size
        memory.clear(gpa + length, whole - length)
        memory.written(gpa, whole)

    def check(self, offset: int, length: int, what: str) -> None:
        """Raise ConfigError unless the file has bytes [offset, offset + length)."""
        if offset + length > self.size:
            raise self.error(
                f"truncated: {what} ends at byte {offset + length:#x}, the file has {self.size:#x}",
                "copy it again",
            )

    def error(self, what: str, advice: str) -> ConfigError:
        """An error about this file."""
        return ConfigError(f"{self.name}: {what}; {advice}")
