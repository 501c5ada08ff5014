"""Files that are derived from a user's files and worth keeping: unpacked kernels, by their hash.

The folder is the user's (XDG Base Directory Specification 0.8, XDG_CACHE_HOME). Whatever is wrong with it
only costs the time to make the file anew. Writers rename whole files into place, so any number may write.
A symbolic link says, by its target, one fact about a file of the user's, such as its hash.
Paths are strings: pathlib costs 5 ms of start.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final

LIMIT: Final = 1 << 30
"""Bytes that the folder may hold; the files unused for longest go first."""
LINKS: Final = 256
"""Facts known of the user's files; the ones learned first go first."""
SUFFIX: Final = ".kept"
HASH, INITRD = ".hash", ".initrd"
"""Kinds of facts: the SHA-256 of a kernel's payload; that an initial RAM disk is whole."""
_SETTLED_NS: Final = 2_000_000_000
"""A file changed later than this before it is looked at may change again without a new time stamp."""
_HASH_DIGITS: Final = 64
_BLOCK: Final = 4096
_PARTIAL: Final = ".part"
_PARTIAL_AGE_S: Final = 3600  # of a file whose writer is surely gone


def cache_folder() -> str | None:
    """Where this program may keep files, None where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return f"{base}/emu"
    home = os.environ.get("HOME", "")
    return f"{home}/.cache/emu" if home.startswith("/") else None


class FileCache:
    """A folder of files by key, bounded to `limit` bytes. With `folder` None nothing is kept."""

    def __init__(self, folder: str | os.PathLike[str] | None, limit: int = LIMIT) -> None:
        self._folder, self._limit = None if folder is None else os.fspath(folder), limit

    def hash_of(self, fd: int, compute: Callable[[], str]) -> str:
        """What `compute` says of the open file `fd`, asked once as long as the file does not change."""
        about = os.fstat(fd)
        found = self.recall(about, HASH)
        if found is not None and len(found) == _HASH_DIGITS and found.isalnum():
            return found
        made = compute()
        self.keep(fd, about, HASH, made)
        return made

    def recall(self, about: os.stat_result, kind: str) -> str | None:
        """What `keep` was given for this file as it is now.

        A file is the same while device, number, size and both time stamps are, the later of which no
        program can set.
        """
        path = self._link(about, kind)
        if path is not None:
            with contextlib.suppress(OSError):
                found = os.readlink(path)  # noqa: PTH115 - pathlib costs 5 ms of start
                if os.lstat(path).st_uid == os.geteuid():
                    return found
        return None

    def keep(self, fd: int, about: os.stat_result, kind: str, fact: str) -> None:
        """Remember a word about the open file `fd`, unless it has changed since it was as `about` says."""
        path = self._link(about, kind)
        if path is not None and self._link(os.fstat(fd), kind) == path:
            self._keep_link(path, fact)

    def _link(self, about: os.stat_result, kind: str) -> str | None:
        """The name of the link for a file that would not change unnoticed."""
        if self._folder is None or not 0 <= about.st_ctime_ns < time.time_ns() - _SETTLED_NS:
            return None
        parts = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
        return f"{self._folder}/{'-'.join(f'{part:x}' for part in parts)}{kind}"

    def _keep_link(self, path: str, target: str) -> None:
        from pathlib import Path  # noqa: PLC0415 - once a file

        link = Path(path)
        partial = link.with_suffix(f".{os.getpid()}-{threading.get_ident()}{_PARTIAL}")
        try:
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.symlink_to(target)
            partial.rename(link)
        except OSError:
            return
        self._prune()

    def open(self, key: str, size: int, fill: Callable[[Callable[[bytes], object]], None]) -> int:
        """A descriptor of the file `key` of `size` bytes, the caller's to close.

        Where it is not there, `fill(write)` makes it; what `fill` raises passes through.
        """
        found = self._find(key, size)
        if found is not None:
            return found
        made = self._make(key, fill)
        return made if made is not None else _in_memory(fill)

    def _find(self, key: str, size: int) -> int | None:
        if self._folder is None:
            return None
        path = f"{self._folder}/{key}{SUFFIX}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        about = os.fstat(fd)
        if about.st_size != size or about.st_uid != os.geteuid():  # cut short by a full disk; or not ours
            os.close(fd)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used
        return fd

    def _make(self, key: str, fill: Callable[[Callable[[bytes], object]], None]) -> int | None:
        """Write the file and put it in place; None where the folder cannot be written."""
        from pathlib import Path  # noqa: PLC0415 - once a kernel

        if self._folder is None:
            return None
        folder = Path(self._folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = folder / f"{os.getpid()}-{time.time_ns()}{_PARTIAL}"  # tempfile costs 10 ms of start
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            disk = _Disk(fd)
            fill(disk.write)
            disk.end()
            if disk.failed:
                raise _CannotWriteError
            partial.rename(folder / (key + SUFFIX))
        except BaseException as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            os.close(fd)
            if isinstance(error, (OSError, _CannotWriteError)):
                return None
            raise
        self._prune()
        return fd

    def _prune(self) -> None:
        """Remove files unused for longest until the rest fits, and what dead writers left."""
        from pathlib import Path  # noqa: PLC0415 - after something was made

        assert self._folder is not None
        now, files, links = time.time(), [], []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._folder):
                about = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_PARTIAL) and now - about.st_mtime > _PARTIAL_AGE_S:
                    Path(entry.path).unlink(missing_ok=True)
                elif entry.name.endswith(SUFFIX):
                    files.append((about.st_mtime, about.st_size, entry.path))
                elif entry.name.endswith((HASH, INITRD)):
                    links.append((about.st_mtime, entry.path))
            for _, path in sorted(links)[:-LINKS]:
                Path(path).unlink(missing_ok=True)
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files)[:-1]:  # the newest is in use
                if total <= self._limit:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size


_ZEROS: Final = bytes(_BLOCK)


class _CannotWriteError(Exception):
    """The disk is full or broken."""


class _Disk:
    """Writes to a descriptor, leaving holes for zeros; once it fails, the rest is dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0
        self.failed = False

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        at = 0
        for start in range(-self._end % _BLOCK, len(data), _BLOCK):
            if data.startswith(_ZEROS, start):
                self._put(data[at:start], self._end + at)
                at = start + _BLOCK
        self._put(data[at:], self._end + at)
        self._end += len(data)

    def end(self) -> None:
        """That was all. The last byte is written even of a hole: the size is not there before the data."""
        if os.fstat(self._fd).st_size < self._end:
            self._put(b"\0", self._end - 1)

    def _put(self, data: bytes, at: int) -> None:
        left = memoryview(data)
        try:
            while left and not self.failed:
                written = os.pwrite(self._fd, left, at)
                left, at = left[written:], at + written
        except OSError:
            self.failed = True


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _in_memory(fill: Callable[[Callable[[bytes], object]], None]) -> int:
    fd = os.memfd_create("emu-unpacked", os.MFD_CLOEXEC)
    try:
        fill(lambda data: _write_all(fd, data))
    except BaseException:
        os.close(fd)
        raise
    return fd
