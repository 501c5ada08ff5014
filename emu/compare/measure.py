"""One path, one fresh machine: the guest does the work, the ledger is read where the guest says so.

All machines run in this process, one after the other: what a path cost is the difference of two readings of
its own machine's ledger, so nothing of an earlier path can leak in, and the start of a Python for each path
(0.2 s, as long as the work) is saved. A path's threads end with its machine.

The guest marks the timed part by two writes to port 0x80. At each of them it stands still, and both lie
outside of the time it measures; the vCPU thread then waits until no role spends anything any more, and reads
the ledger. A worker thread that the host keeps from running for two looks in a row (2 ms) would be read too
early, by what it does between its last interrupt and its sleep: at most 3 system calls. Inline paths have no
such thread.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from emu.boards.pc import build_pc
from emu.bus.costs import Costs
from emu.bus.ledger import Counts as LedgerCounts
from emu.compare.backend import Backend, served
from emu.compare.budgets import Budget, Counts, budget_of
from emu.compare.workloads import GUEST_RAM, QUEUE_SIZE, PatternDisk, Workload
from emu.config import DeviceConfig, DriveConfig, MachineConfig, ObjectConfig, Outcome, OutcomeKind
from emu.machine import Machine

MARK_BEGIN, MARK_END = 0xB0, 0xE0
GUEST_DONE: Final = 0x10
LOOK_S: Final = 0.001
MOST_LOOKS: Final = 100

SERVED: Final[Mapping[str, tuple[str, ...]]] = {"vhost-user": (), "vhost-user-poll": ("--poll",)}
"""Path -> flags of the `emu serve` that serves it."""
WIRING: Final[Mapping[str, Mapping[str, str] | None]] = {
    "ide-pio": None,
    "virtio": {},
    "virtio-iothread": {"iothread": "io0"},
    "vhost": {"vhost": "on"},
    "vhost-user": {"chardev": "backend"},
    "vhost-user-poll": {"chardev": "backend"},
}
"""Path -> properties of its virtio disk; None is the primary master of the IDE channel."""

NUMBERS: Final = (
    "bs", "qd", "count", "errors", "checksum", "bytes",
    "elapsed_ns", "p50_ns", "p99_ns", "iops", "interrupts", "notifies", "watchdog",
)  # fmt: skip
RESULT: Final = re.compile(
    r"iobench: result op=(?P<op>read|write|randread)"
    + "".join(rf" {name}=(?P<{name}>0x[0-9a-f]{{1,16}}|[0-9]{{1,20}})" for name in NUMBERS)
)

Run = Callable[[Machine], Outcome]


@dataclass(frozen=True, slots=True)
class GuestResult:
    """The guest's `iobench: result` line."""

    op: str
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        """A number by its name in the line."""
        return self.values[name]


class Row(NamedTuple):
    """What one path cost. `problem` is empty where every byte was checked and right.

    `counts` is for all requests; latencies in ns and `elapsed_ns` are the guest's own, 0 without a result.
    """

    path: str
    work: Workload
    problem: str
    counts: Counts
    budget: Budget
    p50_ns: int
    p99_ns: int
    elapsed_ns: int

    @property
    def verified(self) -> bool:
        """Every byte that the guest read or wrote was checked against the medium."""
        return not self.problem

    @property
    def misses(self) -> list[str]:
        """The fields out of budget; none where the row is not verified, its counts mean nothing then."""
        return self.budget.misses(self.counts) if self.verified else []


def measure(path: str, work: Workload, disk: PatternDisk, image: str, run: Run = Machine.run) -> Row:
    """Do `work` over `path` with the guest `image`. `run` runs the machine to its end.

    Raises ConfigError where the host cannot have this machine, and what `run` raises.
    """
    work = work.on(path)
    generation = disk.next_generation()
    text = bytearray()
    with contextlib.ExitStack() as stack:
        config = machine_config(path, work, disk, image, generation)
        if path in SERVED:
            drive = ("--drive", f"file={disk.file.replace(',', ',,')},format=raw")
            backend = served("vhost-user-blk", (*SERVED[path], *drive), os.path.dirname(disk.file))  # noqa: PTH120 - pathlib costs 3 ms of start
            config = behind_socket(config, stack.enter_context(backend))
        machine = build_pc(config, text.extend)
        stack.callback(machine.close)
        markers = Markers(machine)
        outcome = run(machine)
    result, problem = read_output(text.decode("ascii", "replace"), outcome)
    counts = markers.counts()
    if result is not None and not problem:
        problem = find_problem(work, result, disk)
    if not problem and counts is None:
        problem = "the guest did not mark its timed part"
    watchdog = result["watchdog"] if result is not None else 0
    return Row(
        path,
        work,
        problem,
        counts or Counts(0, 0, 0, 0, 0, 0, 0, 0),
        budget_of(path, work, watchdog, result["elapsed_ns"] if result is not None else 0),
        *((result["p50_ns"], result["p99_ns"], result["elapsed_ns"]) if result is not None else (0, 0, 0)),
    )


def machine_config(
    path: str, work: Workload, disk: PatternDisk, image: str, generation: int
) -> MachineConfig:
    """The machine of one path: the same board, the disk on another device or in another place."""
    wiring = WIRING[path]
    exit_port = DeviceConfig("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})
    append = work.command_line(path, generation)
    if wiring is None:
        return MachineConfig(
            ram_bytes=GUEST_RAM,
            kernel=image,
            append=append,
            drives=(DriveConfig(disk.file, "ide", "raw", index=0),),
            devices=(exit_port,),
        )
    properties = {"drive": "disk", "queue-size": str(QUEUE_SIZE), **wiring}
    return MachineConfig(
        ram_bytes=GUEST_RAM,
        kernel=image,
        append=append,
        drives=(DriveConfig(disk.file, "none", "raw", id="disk"),),
        devices=(exit_port, DeviceConfig("virtio-blk-pci", properties)),
        objects=(ObjectConfig("iothread", "io0"),) if "iothread" in wiring else (),
    )


def behind_socket(config: MachineConfig, backend: Backend) -> MachineConfig:
    """The same machine; its virtio disk is the back-end's."""
    *others, disk = config.devices
    properties = {key: value for key, value in disk.properties.items() if key != "drive"}
    properties["counters"] = backend.counters
    return replace(
        config,
        drives=(),
        devices=(*others, DeviceConfig("vhost-user-blk-pci", properties)),
        sockets={"backend": backend.sockets[0]},
    )


class Reading(NamedTuple):
    """The ledger at one moment."""

    accesses: LedgerCounts
    costs: Costs
    interrupts: int


class Markers:
    """Reads a machine's ledger at the guest's two marks; vCPU thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._readings: dict[int, Reading] = {}
        machine.on_post_code = self._on_code

    def _on_code(self, code: int) -> None:
        if code in (MARK_BEGIN, MARK_END):
            self._readings[code] = self._read()

    def _read(self) -> Reading:
        ledger = self._machine.ledger
        costs, quiet = ledger.costs(), 0
        for _ in range(MOST_LOOKS):
            time.sleep(LOOK_S)
            before, costs = costs, ledger.costs()
            quiet = quiet + 1 if costs == before else 0
            if quiet == 2:
                break
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


def read_output(text: str, outcome: Outcome) -> tuple[GuestResult | None, str]:
    """The guest's result, and what is wrong with its output or its end ("" where nothing is)."""
    lines = text.replace("\r\n", "\n").splitlines()
    results = [line for line in lines if line.startswith("iobench: result ")]
    for line in lines:
        if line.startswith(("iobench: fail", "panic:")):
            return None, f'the guest ended with "{line.removeprefix("iobench: ")}"'
    if len(results) != 1:
        last = f', its last line is "{lines[-1][:100]}"' if lines else ", it printed nothing"
        return None, f"the guest gave {len(results)} results and ended by {outcome.kind.value}{last}"
    found = RESULT.fullmatch(results[0])
    if found is None:
        return None, f'"{results[0][:200]}" is not a result as iobench prints it'
    result = GuestResult(found["op"], {name: int(found[name], 0) for name in NUMBERS})
    if result["errors"]:
        shown = next((line for line in lines if line.startswith("iobench: error ")), "")
        return result, f"{result['errors']} requests with wrong data: {shown.removeprefix('iobench: error ')}"
    if lines[-1] != "iobench: done":
        return result, f'the guest went on after its result: "{lines[-1][:100]}"'
    if outcome != Outcome(OutcomeKind.DEBUG_EXIT, GUEST_DONE):
        return result, f"the guest ended by {outcome.kind.value} with {outcome.value:#x}"
    return result, ""


def find_problem(work: Workload, result: GuestResult, disk: PatternDisk) -> str:
    """Compare the guest's word with the host's own arithmetic and with the medium; "" where all agree."""
    wanted = {"bs": work.bs, "qd": work.qd, "count": work.count, "bytes": work.bs * work.count}
    wrong = [f"{name}={result[name]}" for name, value in wanted.items() if result[name] != value]
    if result.op != work.op or wrong:
        return f"the guest did other work: {' '.join([f'op={result.op}', *wrong])}"
    checksum = disk.checksum()
    if result["checksum"] != checksum:
        return f"the guest's checksum is {result['checksum']:#x}, the medium's {checksum:#x}"
    at = disk.wrong_byte()
    return "" if at is None else f"byte {at} of the medium is not what was to be written"
