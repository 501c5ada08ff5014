"""A raw image: the disk's bytes are the file's bytes. Also the vectored file I/O that the overlay shares.

Locks follow QEMU's protocol for image files (fcntl(2) open file description locks; one byte for each
permission in use, one for each that is not shared), so that `emu` and QEMU keep off each other's disks.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Sequence

from emu.bus.costs import Costs
from emu.config import FilePath
from emu.errors import ConfigError, MediumError

SECTOR = 512

IOV_MAX = 1024  # buffers in one preadv or pwritev: Linux's UIO_MAXIOV
ZEROES = bytes(1 << 18)  # the bounded chunk that zeroes are written from

# Modes of fallocate, from linux/falloc.h.
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10
NOT_POSSIBLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

# Lock bytes: PERM + n says "I use permission n", SHARE + n says "nobody else may use permission n".
LOCK_PERM, LOCK_SHARE = 100, 200
PERM_READ, PERM_WRITE, PERM_RESIZE = 0, 1, 3
FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid

Buffers = Sequence[memoryview | bytes]
Transfer = Callable[[int, list[memoryview], int], int]
"""preadv or pwritev: (descriptor, buffers, offset) -> bytes."""


def total_length(buffers: Buffers) -> int:
    """The bytes that `buffers` hold together (views of bytes: one item is one byte)."""
    return len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))


def part_of(buffers: Buffers, skip: int, length: int) -> list[memoryview]:
    """Views of bytes `skip` to `skip + length` of what `buffers` hold together."""
    parts: list[memoryview] = []
    for buffer in buffers:
        size = len(buffer)
        if length <= 0:
            break
        if skip >= size:
            skip -= size
            continue
        view = memoryview(buffer)[skip : skip + length]
        parts.append(view)
        length -= len(view)
        skip = 0
    return parts


def medium_error(action: str, error: OSError) -> MediumError:
    """The device's view of a failed system call."""
    return MediumError(f"{action}: {error.strerror}", error.errno or errno.EIO)


class FileMedium:
    """Vectored I/O on an open file of fixed size; a `BlockBackend` without a format.

    One thread at a time. Each system call and each byte is counted in `costs`.
    """

    __slots__ = ("_fd", "_name", "costs", "read_only", "size")

    def __init__(self, fd: int, size: int, read_only: bool, name: str) -> None:
        self._fd, self._name = fd, name
        self.size, self.read_only, self.costs = size, read_only, Costs()

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the byte views `buffers` in order from byte `offset` on. Raises MediumError."""
        costs = self.costs
        costs.syscalls += 1
        try:
            done = os.preadv(self._fd, buffers, offset)
        except OSError as error:
            if len(buffers) <= IOV_MAX:
                raise medium_error(f"{self._name}: read at byte {offset}", error) from error
            done = 0
        wanted = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if done != wanted:
            self._go_on(os.preadv, "read", offset, buffers, done, wanted)
        costs.bytes_copied += wanted

    def writev(self, offset: int, buffers: Buffers) -> None:
        """Store the byte views `buffers` in order from byte `offset` on. Raises MediumError."""
        costs = self.costs
        costs.syscalls += 1
        try:
            done = os.pwritev(self._fd, buffers, offset)
        except OSError as error:
            if len(buffers) <= IOV_MAX:
                raise medium_error(f"{self._name}: write at byte {offset}", error) from error
            done = 0
        wanted = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if done != wanted:
            self._go_on(os.pwritev, "write", offset, buffers, done, wanted)
        costs.bytes_copied += wanted

    def flush(self) -> None:
        """Return once every finished write is on the medium. Raises MediumError."""
        self.costs.syscalls += 1
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise medium_error(f"{self._name}: flush", error) from error

    def discard(self, offset: int, length: int) -> None:
        """Give the range's room back to the host where its file system can; else do nothing."""
        self._check_writable("discard")
        self._fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """Make the range read as zeroes, by a hole where `unmap` allows it. Raises MediumError."""
        self._check_writable("write zeroes")
        mode = FALLOC_FL_PUNCH_HOLE if unmap else FALLOC_FL_ZERO_RANGE
        if self._fallocate(mode | FALLOC_FL_KEEP_SIZE, offset, length):
            return
        end = offset + length
        while offset < end:
            chunk = memoryview(ZEROES)[: end - offset]
            self.writev(offset, [chunk])
            offset += len(chunk)

    def close(self) -> None:
        """Flush, then release the file; harmless when repeated. Raises MediumError."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if not self.read_only:
                self._fd = fd
                self.flush()
        finally:
            self._fd = -1
            os.close(fd)

    def _go_on(
        self, call: Transfer, action: str, offset: int, buffers: Buffers, done: int, wanted: int
    ) -> None:
        """Finish after a short transfer, or with more buffers than one call takes. Raises MediumError."""
        while done < wanted:
            rest = part_of(buffers, done, wanted - done)[:IOV_MAX]
            self.costs.syscalls += 1
            try:
                step = call(self._fd, rest, offset + done)
            except OSError as error:
                raise medium_error(f"{self._name}: {action} at byte {offset + done}", error) from error
            if step == 0:  # somebody cut the file
                at, end = offset + done, offset + wanted
                raise MediumError(
                    f"{self._name}: {action} at byte {at}: it ends before byte {end}", errno.EIO
                )
            done += step

    def _check_writable(self, action: str) -> None:
        if self.read_only:
            raise MediumError(f"{self._name}: {action}: {os.strerror(errno.EBADF)}", errno.EBADF)

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """True where the host did it, False where it cannot. Raises MediumError where it failed."""
        if length == 0:
            return True
        self.costs.syscalls += 1
        failure = _fallocate(self._fd, mode, offset, length)
        if failure == 0:
            return True
        if failure in NOT_POSSIBLE:
            return False
        raise MediumError(f"{self._name}: fallocate at byte {offset}: {os.strerror(failure)}", failure)


class RawImage(FileMedium):
    """A raw image file or block device. Raises ConfigError where it cannot be used."""

    __slots__ = ()

    def __init__(self, path: FilePath, read_only: bool) -> None:
        fd = open_locked(path, read_only)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            check_size(path, size)
        except BaseException:
            os.close(fd)
            raise
        super().__init__(fd, size, read_only, str(path))


def check_size(path: FilePath, size: int) -> None:
    """Refuse a size that is no whole number of sectors. Raises ConfigError with the fix."""
    whole = max(1, -(-size // SECTOR)) * SECTOR
    if size == 0:
        raise ConfigError(f'{path}: the image is empty; try "truncate -s 64M {path}"')
    if size % SECTOR:
        raise ConfigError(
            f'{path}: {size} bytes is not a multiple of {SECTOR}; try "truncate -s {whole} {path}"'
        )


def open_locked(path: FilePath, read_only: bool) -> int:
    """Open an image file or block device and lock it; return the descriptor. Raises ConfigError."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - pathlib costs 5 ms of start
        if stat.S_ISDIR(mode):
            raise ConfigError(f"{path}: is a directory; give an image file")
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ConfigError(f"{path}: neither a file nor a block device; give an image file")
        fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ConfigError(f'{path}: no such file; try "truncate -s 64M {path}" for an empty disk') from error
    except PermissionError as error:
        advice = "give a readable file" if read_only else "make it writable, or add readonly=on or -snapshot"
        raise ConfigError(f"{path}: permission denied; {advice}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: cannot be opened: {text}") from error
    if not _lock(fd, read_only):
        os.close(fd)
        raise ConfigError(
            f"{path}: in use by another program or disk, and one of the two would write it; "
            "stop that one, or make both readonly=on"
        )
    return fd


def _lock(fd: int, read_only: bool) -> bool:
    """Announce what we use and do not share; False where that meets another's announcement."""
    used = (PERM_READ,) if read_only else (PERM_READ, PERM_WRITE)
    unshared = (PERM_WRITE, PERM_RESIZE)
    try:
        for byte in [LOCK_PERM + n for n in used] + [LOCK_SHARE + n for n in unshared]:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        for byte in [LOCK_SHARE + n for n in used] + [LOCK_PERM + n for n in unshared]:
            probe = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            if FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK:
                return False
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in (*NOT_POSSIBLE, errno.ENOLCK):  # a file system without locks
            raise
    return True


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2), which `os` lacks (`posix_fallocate` has no mode); return 0 or the errno."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is None:  # a libc without it
        return errno.ENOSYS
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, mode, offset, length) != 0:
        failure = ctypes.get_errno()
        if failure != errno.EINTR:
            return failure
    return 0
