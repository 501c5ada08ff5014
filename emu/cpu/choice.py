"""Which engine runs a machine: the fast one, or the one that needs only Unicorn's public API."""

import sys
from collections.abc import Sequence
from typing import Literal

from emu.cpu.engine import Engine, EngineHooks, RamBlock
from emu.cpu.fast import FastEngine
from emu.errors import EngineError


def make_engine(
    choice: Literal["auto", "fast", "public"], ram: Sequence[RamBlock], hooks: EngineHooks, wake_fd: int
) -> Engine:
    """The engine asked for; "auto" is the fast one, else the public one with a line on standard error.

    Raises EngineError where it does not work.
    """
    if choice != "public":
        try:
            return FastEngine(ram, hooks, wake_fd)
        except EngineError as error:
            if choice == "fast":
                raise
            print(f"emu: {error}; going on with the slower public engine", file=sys.stderr)
    from emu.cpu.public.engine import PublicEngine  # noqa: PLC0415 - most runs do not need it

    return PublicEngine(ram, hooks, wake_fd)
