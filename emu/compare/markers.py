"""Where the guest says that its timed part begins and ends: the ledger is read there.

The guest marks the timed part by two writes to port 0x80. At each of them it stands still, and both lie
outside of the time it measures; the vCPU thread then waits until no role spends anything any more, and reads
the ledger. A worker thread that the host keeps from running for two looks in a row (2 ms) would be read too
early, by what it does between its last interrupt and its sleep: at most 3 system calls. Inline paths have no
such thread.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from emu.bus.costs import Costs
from emu.bus.ledger import Counts as LedgerCounts
from emu.compare.counts import Counts
from emu.machine import Machine

MARK_BEGIN, MARK_END = 0xB0, 0xE0
LOOK_S: Final = 0.001
MOST_LOOKS: Final = 100
Hold = Callable[[int], None]


def go_on(_mark: int) -> None:
    """Nobody else is waited for."""


def quiet(costs: Callable[[], Costs]) -> Costs:
    """The costs once nobody spends any more."""
    found, same = costs(), 0
    for _ in range(MOST_LOOKS):
        time.sleep(LOOK_S)
        before, found = found, costs()
        same = same + 1 if found == before else 0
        if same == 2:
            break
    return found


class Reading(NamedTuple):
    """The ledger at one moment."""

    accesses: LedgerCounts
    costs: Costs
    interrupts: int


class Markers:
    """Reads a machine's ledger at the guest's two marks; vCPU thread. `hold` returns when it may go on."""

    def __init__(self, machine: Machine, hold: Hold = go_on) -> None:
        self._machine, self._hold = machine, hold
        self._readings: dict[int, Reading] = {}
        machine.on_post_code = self._on_code

    def _on_code(self, code: int) -> None:
        if code in (MARK_BEGIN, MARK_END):
            self._readings[code] = self._read()
            self._hold(code)

    def _read(self) -> Reading:
        ledger = self._machine.ledger
        costs = quiet(ledger.costs)
        return Reading(ledger.snapshot(), costs, self._machine.engine.interrupts)

    def counts(self) -> Counts | None:
        """What lies between the marks, or None where one is missing.

        A light exit is a write(2) to the doorbell's event, made by native code: a system call that no role
        counts, and the ledger knows.
        """
        begin, end = self._readings.get(MARK_BEGIN), self._readings.get(MARK_END)
        if begin is None or end is None:
            return None
        kinds = {"device": 0, "light": 0, "irqchip": 0}
        for key, count in (end.accesses - begin.accesses).items():
            if key[0] in kinds:
                kinds[key[0]] += count
        before, after = begin.costs, end.costs
        return Counts(
            exits=kinds["device"],
            light_exits=kinds["light"],
            irqchip_exits=kinds["irqchip"],
            interrupts=end.interrupts - begin.interrupts,
            handoffs=after.handoffs - before.handoffs,
            bytes_copied=after.bytes_copied - before.bytes_copied,
            bytes_dma=after.bytes_dma - before.bytes_dma,
            syscalls=after.syscalls - before.syscalls + kinds["light"],
        )
