"""The errors of this package, by whose fault they are.

The guest's faults never leave the bus (`emu.bus.types.AccessError`) or the device (`DriverError`);
the user's end in one line and exit status 2.
"""


class EmuError(Exception):
    """Base of everything this package raises on purpose; its text is one line for a user."""


class ConfigError(EmuError):
    """The user asked for something impossible: a flag, a file, a size. Exit status 2.

    The text says what, where and what would work.
    """


class MapError(EmuError):
    """The board put two windows at one place, or one outside of its space."""


class DriverError(EmuError):
    """The guest's driver broke the device's protocol; the device enters its error state."""


class PeerError(EmuError):
    """Another process broke a wire protocol; that connection ends, nothing else."""


class MediumError(EmuError):
    """A disk's medium failed (I/O error, no space); the guest gets the device's error status.

    `errno` is the host's number (`errno.ENOSPC`, `errno.EIO`), or 0 where there is none.
    """

    def __init__(self, text: str, errno: int = 0) -> None:
        super().__init__(text)
        self.errno = errno


class EngineError(EmuError):
    """The CPU engine is not the one this package was written for, or failed."""
