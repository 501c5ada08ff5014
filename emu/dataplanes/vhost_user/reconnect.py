"""Waiting for a back-end to come back, on a thread of its own: a connection may take its time."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from emu.dataplanes.types import Post
from emu.dataplanes.vhost_user.connection import Connection
from emu.errors import PeerError

log = logging.getLogger("emu.vhost_user")

FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 1.0
SHORT_LIFE_S: Final = 0.02
"""A back-end that leaves sooner than that is no good either."""
EAGER: Final = 1000
"""Tries with the first pause; then they get rarer, for a back-end that may never come."""


def pause_after(lived_s: float, before_s: float) -> float:
    """Seconds to wait where a back-end served so long, and the pause before that one was `before_s`."""
    if lived_s > SHORT_LIFE_S:
        return 0.0
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * before_s))


class Reconnector:
    """Tries `connect` until it works, then has `adopt` called by `post`. Used from the vCPU thread.

    Where a back-end is lost within `adopt` or right after it, the pauses before the next ones get longer.
    """

    def __init__(
        self, connect: Callable[[], Connection], post: Post, adopt: Callable[[Connection], None]
    ) -> None:
        self._connect, self._post, self._adopt = connect, post, adopt
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._found: Connection | None = None
        self._before_s, self._adopted_at = 0.0, -math.inf

    def start(self) -> None:
        """Begin to try; one thread at a time."""
        if self._closing.is_set():
            return
        if self._thread is not None:
            self._thread.join()  # it has handed its connection over, so it is at its end
        self._before_s = pause_after(time.monotonic() - self._adopted_at, self._before_s)
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
        self._closing.wait(self._before_s)
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
        if found is None:
            return
        self._adopted_at = math.inf  # a start from within is one of a short life
        self._adopt(found)
        self._adopted_at = time.monotonic()
