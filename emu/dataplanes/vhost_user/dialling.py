"""How a front-end comes to its back-end: it connects to it, or listens and the back-end connects."""

import contextlib
import logging
import select
from typing import Final, Protocol

from emu.dataplanes.vhost_user.channel import Channel, connect
from emu.listening import ListeningSocket

log = logging.getLogger("emu.vhost_user")

LOOK_S: Final = 0.2
"""How long one look for a back-end takes at most, so that who waits can also end."""


class Dialler(Protocol):
    """Makes one connection after the other to the back-ends at one path."""

    def __call__(self) -> Channel:
        """The next connection. Raises OSError where no back-end is there."""

    def first(self) -> Channel:
        """The connection at the start, which may be waited for. Raises OSError."""

    def close(self) -> None:
        """No more connections."""


class Client:
    """The back-end listens at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> Channel:
        """See `Dialler`."""
        return connect(self._path)

    first = __call__

    def close(self) -> None:
        """Nothing is open."""


class Server:
    """We listen at `path`, the back-end connects; `where` begins what people are told. Raises ConfigError."""

    def __init__(self, path: str, where: str) -> None:
        self._where = where
        self._listening = ListeningSocket(path, where)

    def __call__(self) -> Channel:
        """See `Dialler`. One look only: TimeoutError, an OSError, where nobody comes meanwhile."""
        if not select.select([self._listening.sock], [], [], LOOK_S)[0]:
            raise TimeoutError
        return Channel(self._listening.sock.accept()[0])

    def first(self) -> Channel:
        """See `Dialler`. Waits however long it takes."""
        log.warning("%s: waiting for a back-end to connect", self._where)
        while True:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                return self()

    def close(self) -> None:
        """See `Dialler`."""
        self._listening.close()
