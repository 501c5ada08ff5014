"""Whether the initial RAM disk is whole, found out while the guest already runs: the start does not wait."""

import os
import threading
from collections.abc import Callable
from typing import Final

from emu.boot.cache import INITRD, FileCache, cache_folder
from emu.boot.image_file import ImageFile
from emu.boot.initrd import check_initrd
from emu.config import FilePath
from emu.errors import ConfigError

HEAD_START_S: Final = 0.05
"""The guest's first instructions need the interpreter; the check then runs in libraries, beside it."""
STEPS: Final = 1 << 18
"""Pieces of 256 KiB, or entries of an archive, that no initial RAM disk comes near to."""
PATIENCE_S: Final = 10.0
WHOLE: Final = "whole"


class _AbandonedError(Exception):
    """The machine is gone, or the file has no end."""


class InitrdCheck:
    """One look at one file, by a thread of its own. What was found whole is remembered in `cache`.

    Opened before the file is loaded, started when the guest is about to run. `fail(error)` ends the run with
    the ConfigError that says what is wrong. Raises ConfigError for what cannot be an initial RAM disk at all.
    """

    def __init__(
        self, path: FilePath, fail: Callable[[BaseException], None], cache: FileCache | None = None
    ) -> None:
        self._fail, self._cache = fail, cache or FileCache(cache_folder())
        self._image = ImageFile(path)
        try:
            check_initrd(self._image)
        except ConfigError:
            self._image.close()
            raise
        self._about = os.fstat(self._image.fileno())
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._closing = False
        self._steps = 0
        self._error: ConfigError | None = None

    def start(self) -> None:
        """Begin, unless the file is known to be whole, or this has begun before."""
        if self._thread is not None or self._cache.recall(self._about, INITRD) == WHOLE:
            return
        self._thread = threading.Thread(target=self._run, name="initrd-check", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The guest has ended by itself: raise the ConfigError, where there is one, that explains it."""
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._hurry.set()
        if self._thread is not None:
            self._thread.join()
        self._image.close()

    def _run(self) -> None:
        self._hurry.wait(HEAD_START_S)
        try:
            self._error = self._look()
        except (_AbandonedError, ConfigError, MemoryError, ImportError):
            return  # nothing is certain
        except Exception as error:  # our own fault: the run ends with it
            self._fail(error)
            return
        if self._error is not None:
            self._fail(self._error)

    def _look(self) -> ConfigError | None:
        from emu.boot.initrd_archives import check_archives  # noqa: PLC0415 - once a file
        from emu.boot.initrd_streams import DamageError  # noqa: PLC0415 - as above

        try:
            check_archives(self._image, self._go_on)
        except DamageError as error:
            now = os.fstat(self._image.fileno())
            if (now.st_size, now.st_ctime_ns) != (self._about.st_size, self._about.st_ctime_ns):
                return None  # what was loaded was another
            return self._image.error(str(error), "copy it again")
        self._cache.keep(self._image.fileno(), self._about, INITRD, WHOLE)
        return None

    def _go_on(self) -> None:
        self._steps += 1
        if self._closing or self._steps > STEPS:
            raise _AbandonedError
