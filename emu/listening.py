"""A socket file of our own where a peer connects: `emu serve --socket`, `-chardev socket,server=on`."""

import errno
import os
import socket
import stat
from typing import Final

from emu.errors import ConfigError

MAX_PATH: Final = 107  # sockaddr_un.sun_path without its end


class ListeningSocket:
    """Listens at `path`; `where` begins its errors. `sock` does not wait, unless its owner lets it.

    A socket file left behind by a process that is gone is replaced. Raises ConfigError.
    """

    def __init__(self, path: str, where: str, backlog: int = 1) -> None:
        self.path = path
        if len(os.fsencode(path)) > MAX_PATH:
            raise ConfigError(f"{where}: longer than {MAX_PATH} bytes; try a shorter path")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _make_way(path, where)
            self.sock.bind(path)
            self.sock.listen(backlog)
            self.sock.setblocking(False)
        except OSError as error:
            self.sock.close()
            advice = "; make its folder first" if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
            raise ConfigError(f"{where}: {error.strerror}{advice}") from error
        except BaseException:
            self.sock.close()
            raise
        self._identity = _identity(path)

    def close(self) -> None:
        """Listen no more; the file goes if it is still ours."""
        self.sock.close()
        if self._identity is not None and _identity(self.path) == self._identity:
            os.unlink(self.path)  # noqa: PTH108 - pathlib costs 3 ms of start
        self._identity = None


def _make_way(path: str, where: str) -> None:
    """Remove the file of a socket whose process is gone. Raises ConfigError where somebody is there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as above
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{where}: it exists and is no socket; try another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)  # of the wrong type, so that a listener never sees it
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - as above
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise ConfigError(f"{where}: another process listens there; try another path")


def _identity(path: str) -> tuple[int, int] | None:
    """Which file that is."""
    try:
        found = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return None
    return found.st_dev, found.st_ino
