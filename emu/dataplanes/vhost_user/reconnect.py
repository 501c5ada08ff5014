"""Waiting for a back-end to come back, on a thread of its own: a connection may take its time."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from emu.dataplanes.types import Post
from emu.dataplanes.vhost_user.connection import Connection
from emu.errors import PeerError

log = logging.getLogger("emu.vhost_user")

FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 1.0
EAGER: Final = 1000
"""Tries with the first pause; then they get rarer, for a back-end that may never come."""


class Reconnector:
    """Tries `connect` until it works, then has `adopt` called by `post`. Used from the vCPU thread."""

    def __init__(
        self, connect: Callable[[], Connection], post: Post, adopt: Callable[[Connection], None]
    ) -> None:
        self._connect, self._post, self._adopt = connect, post, adopt
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._found: Connection | None = None

    def start(self) -> None:
        """Begin to try; one thread at a time."""
        if self._closing.is_set():
            return
        if self._thread is not None:
            self._thread.join()  # it has handed its connection over, so it is at its end
        self._thread = threading.Thread(target=self._main, name="vhost-user-reconnect", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Try no more; a connection that nobody has taken is closed."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._found is not None:
            self._found.close()
            self._found = None

    def _main(self) -> None:
        pause, tries, said = FIRST_PAUSE_S, 0, ""
        while not self._closing.is_set():
            try:
                self._found = self._connect()
            except OSError:  # nobody listens yet
                pass
            except PeerError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("%s; trying again", said)
            else:
                self._post(self._hand_over)
                return
            tries += 1
            if tries > EAGER:
                pause = min(LONGEST_PAUSE_S, pause * 2)
            self._closing.wait(pause)

    def _hand_over(self) -> None:
        found, self._found = self._found, None
        if found is not None:
            self._adopt(found)
