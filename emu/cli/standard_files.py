"""Standard input, output and error as they should be, whatever the caller made of them."""

import contextlib
import errno
import io
import os
import sys
from typing import Final

INPUT, OUTPUT, ERROR = 0, 1, 2
FAILURES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)
"""What a write to standard output may end in, besides a reader that has left."""


class ErrorOutput(io.TextIOBase):
    """Standard error, a line at a time. What it does not take is lost: the exit status is what counts."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._held = ""

    def fileno(self) -> int:
        """Its descriptor."""
        return ERROR

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return os.isatty(ERROR)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Take it, and hand on what has come once a line is whole."""
        self._held += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Hand on what has come."""
        data, self._held = self._held.encode(errors="backslashreplace"), ""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(ERROR, data) :]


def set_up() -> None:
    """Open the null device for those that are closed: a disk opened there would get what is said."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= ERROR:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(OUTPUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives on
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = ErrorOutput()


def forget_output() -> None:
    """Standard output has failed: the flush at exit must not fail again."""
    fd = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(fd, sys.stdout.fileno())
    os.close(fd)


def one_line(text: str) -> str:
    """The text without what a terminal would act on: names of files and words may hold anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
