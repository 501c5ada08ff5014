"""One start with the time of its phases, as a program: `python -m emu.bench.phases STARTED_NS FLAGS...`.

The way of `emu run FLAGS`, stamped between its steps and nowhere in the guest's. Prints JSON on standard
error: milliseconds from STARTED_NS (CLOCK_MONOTONIC) to here, of the command's imports, of the board's (with
building the machine), of loading up to the first guest instruction, and of the run; and the guest RAM that
was touched. Where STARTED_NS ends with "+" the guest does not get as far as its first instruction.
"""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.boards.pc import PcBoard
    from emu.cli.session import Session
    from emu.config import MachineConfig
    from emu.machine import Machine

NAMES = ("interpreter", "import", "build", "load", "run")


class Stamps:
    """The moments so far, and what is known at the end."""

    def __init__(self, started_ns: int) -> None:
        self.moments = [started_ns, time.monotonic_ns()]
        self.touched_kib = 0

    def add(self) -> None:
        """A step has ended."""
        self.moments.append(time.monotonic_ns())

    def document(self) -> dict[str, object]:
        """Milliseconds by phase."""
        pairs = zip(NAMES, self.moments, self.moments[1:], strict=False)
        return {"stamps": {name: (b - a) / 1e6 for name, a, b in pairs}, "touched_kib": self.touched_kib}


def main(started: str, flags: list[str]) -> int:
    """Start the machine that `flags` ask for, and print; returns the exit status of `emu run`."""
    stamps = Stamps(int(started.rstrip("+")))
    from emu.cli import run as command  # noqa: PLC0415 - imports are what is measured
    from emu.cli.main import main as emu  # noqa: PLC0415 - as above

    stamps.add()
    build = command.build

    def stamped_build(config: "MachineConfig", session: "Session") -> "PcBoard":
        board = build(config, session)
        machine = board.machine
        stamps.add()

        def before_first_instruction() -> None:
            stamps.add()
            if started.endswith("+"):
                machine.stop()

        machine.post(before_first_instruction)
        machine.on_close.append(lambda: note_memory(machine))
        return board

    def note_memory(machine: "Machine") -> None:
        import os  # noqa: PLC0415 - for the report only

        stamps.touched_kib = os.fstat(machine.memory.fd).st_blocks // 2

    command.build = stamped_build
    status = emu(["run", *flags])
    stamps.add()
    if len(stamps.moments) <= len(NAMES):  # it failed before, and has said why
        return status

    import json  # noqa: PLC0415 - for the report only

    print(json.dumps(stamps.document()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
