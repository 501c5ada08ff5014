"""Files that are derived from a user's files and worth keeping: unpacked kernels, by their hash.

The folder is the user's (XDG Base Directory Specification 0.8, XDG_CACHE_HOME). Whatever is wrong with it
only costs the time to make the file anew. Writers rename whole files into place, so any number may write.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LIMIT: Final = 1 << 30
"""Bytes that the folder may hold; the files unused for longest go first."""
SUFFIX: Final = ".kept"
_PARTIAL: Final = ".part"
_PARTIAL_AGE_S: Final = 3600  # of a file whose writer is surely gone


def cache_folder() -> Path | None:
    """Where this program may keep files, None where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "emu"
    home = os.environ.get("HOME", "")
    return Path(home) / ".cache" / "emu" if home.startswith("/") else None


class FileCache:
    """A folder of files by key, bounded to `limit` bytes. With `folder` None nothing is kept."""

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit

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
        path = self._folder / (key + SUFFIX)
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
        folder = self._folder
        if folder is None:
            return None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = folder / f"{os.getpid()}-{time.time_ns()}{_PARTIAL}"  # tempfile costs 10 ms of start
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            disk = _Disk(fd)
            fill(disk.write)
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
        assert self._folder is not None
        now, files = time.time(), []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._folder):
                about = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_PARTIAL) and now - about.st_mtime > _PARTIAL_AGE_S:
                    Path(entry.path).unlink(missing_ok=True)
                elif entry.name.endswith(SUFFIX):
                    files.append((about.st_mtime, about.st_size, entry.path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files)[:-1]:  # the newest is in use
                if total <= self._limit:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size


class _CannotWriteError(Exception):
    """The disk is full or broken."""


class _Disk:
    """Writes to a descriptor; once it fails, the rest is dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.failed = False

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        if not self.failed:
            try:
                _write_all(self._fd, data)
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
