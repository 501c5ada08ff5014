"""The user's terminal, raw while a guest has it."""

import atexit
import termios
from typing import Final

IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6
INPUT_CHANGES: Final = (
    termios.IGNBRK
    | termios.BRKINT
    | termios.PARMRK
    | termios.ISTRIP
    | termios.INLCR
    | termios.IGNCR
    | termios.ICRNL
    | termios.IXON
)
LINE_EDITING: Final = termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN


class RawTerminal:
    """Makes the terminal at `fd` hand over each key as it is typed; `restore` undoes that.

    With `keep_signals`, Ctrl-C and its like still send signals. Output processing stays on, so that a guest's
    bare newline starts at the left. The end of the process restores, too. Raises OSError or termios.error
    where `fd` is no terminal.
    """

    def __init__(self, fd: int, *, keep_signals: bool) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)
        raw = termios.tcgetattr(fd)
        raw[IFLAG] &= ~INPUT_CHANGES
        raw[OFLAG] |= termios.OPOST
        raw[CFLAG] = raw[CFLAG] & ~termios.CSIZE & ~termios.PARENB | termios.CS8
        raw[LFLAG] &= ~LINE_EDITING
        if not keep_signals:
            raw[LFLAG] &= ~termios.ISIG
        raw[CC][termios.VMIN], raw[CC][termios.VTIME] = 1, 0
        self._raw = raw
        self._active = False
        atexit.register(self.restore)

    def enter(self) -> None:
        """Make the terminal raw; also after it was stopped and continued."""
        self._active = True
        termios.tcsetattr(self._fd, termios.TCSANOW, self._raw)

    def restore(self) -> None:
        """Give the terminal back as it was; harmless when it is so already."""
        if self._active:
            self._active = False
            atexit.unregister(self.restore)
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
