"""Files that this program writes for its user: each failure is one line that says what to do."""

import errno
import os
import stat
from typing import Final

from emu.config import FilePath
from emu.errors import ConfigError

ADVICE: Final = {
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "make its folder first",
    errno.EISDIR: "name a file",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "choose a place that takes larger files",
    errno.ENXIO: "nobody reads that pipe; start its reader first",
}
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""Without O_NONBLOCK a pipe that nobody reads would hang here."""


def failure(path: FilePath, error: OSError | ValueError) -> ConfigError:
    """What the user reads of a file that cannot be opened or takes no more."""
    name = os.fspath(path) or '""'
    if isinstance(error, ValueError):  # a NUL in the name
        return ConfigError(f"{name}: {error}; choose another name")
    return ConfigError(f"{name}: {error.strerror}; {ADVICE.get(error.errno or 0, 'choose another file')}")


def open_output(path: FilePath, mode: int = 0o666) -> int:
    """A descriptor of the file, which is made or emptied. Raises ConfigError."""
    try:
        fd = os.open(path, _WRITE | os.O_TRUNC, mode)
    except (OSError, ValueError) as error:
        raise failure(path, error) from None
    os.set_blocking(fd, True)
    return fd


def write_output(path: FilePath, content: bytes) -> None:
    """Make it the file's content. Raises ConfigError."""
    fd = open_output(path)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except OSError as error:
        raise failure(path, error) from None


def check_output(path: FilePath) -> None:
    """Say before the work what cannot be written after it. Nothing is changed. Raises ConfigError."""
    try:
        if os.path.lexists(path):
            if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - pathlib costs 5 ms of start
                return  # a reader would take the look for all there is
            os.close(os.open(path, _WRITE | os.O_APPEND))
        else:
            os.close(os.open(path, _WRITE | os.O_EXCL, 0o666))
            os.unlink(path)  # noqa: PTH108 - as above
    except (OSError, ValueError) as error:
        raise failure(path, error) from None
