"""One path: its guest does the work, the ledger is read where the guest says so (`markers`).

A single guest's machine runs in this process, one path after the other: what a path cost is the difference of
two readings of its own machine's ledger, so nothing of an earlier path can leak in, and the start of a Python
for each path (0.2 s, as long as the work) is saved. A path's threads end with its machine. Several guests at
once have a process each: see `fleet`.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from emu.boards.pc import build_pc
from emu.compare.backend import served
from emu.compare.budgets import budget_of
from emu.compare.counts import Budget, Counts
from emu.compare.machines import SERVED, Place, at_socket, machine_config, serve_flags
from emu.compare.markers import Markers
from emu.compare.workloads import Medium, Workload
from emu.config import Outcome, OutcomeKind
from emu.machine import Machine

GUEST_DONE: Final = 0x10
NUMBERS: Final = (
    "bs", "qd", "count", "errors", "checksum", "bytes",
    "elapsed_ns", "p50_ns", "p99_ns", "iops", "interrupts", "notifies", "watchdog",
)  # fmt: skip
RESULT: Final = re.compile(
    r"iobench: result op=(?P<op>read|write|randread|net-rr|net-stream)"
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


class Share(NamedTuple):
    """What one guest got; latencies in ns and `elapsed_ns` are its own, 0 without a result.

    `problem` is empty where every byte was checked and right.
    """

    problem: str
    p50_ns: int = 0
    p99_ns: int = 0
    elapsed_ns: int = 0
    watchdog: int = 0

    def iops(self, work: Workload) -> float:
        """Requests a second."""
        return work.count * 1e9 / self.elapsed_ns if self.elapsed_ns else 0.0


class Row(NamedTuple):
    """What one path cost. `problem` is empty where every byte was checked and right.

    `counts` and `budget` are for all requests of all guests. Of several guests, who began at the same time,
    `p50_ns` is the median's, `p99_ns` and `elapsed_ns` are the last one's; `guests` has their shares.
    """

    path: str
    work: Workload
    problem: str
    counts: Counts
    budget: Budget
    p50_ns: int
    p99_ns: int
    elapsed_ns: int
    guests: tuple[Share, ...] = ()

    @property
    def requests(self) -> int:
        """Of all guests."""
        return self.work.count * max(1, len(self.guests))

    @property
    def iops(self) -> float:
        """Requests of all guests a second, until the last one was done."""
        return self.requests * 1e9 / self.elapsed_ns if self.elapsed_ns else 0.0

    @property
    def verified(self) -> bool:
        """Every byte that a guest read, wrote or sent was checked."""
        return not self.problem

    @property
    def misses(self) -> list[str]:
        """The fields out of budget; none where the row is not verified, its counts mean nothing then."""
        return self.budget.misses(self.counts) if self.verified else []


def measure(path: str, work: Workload, medium: Medium, image: str, run: Run = Machine.run) -> Row:
    """Do `work` over `path` with the guest `image`. `run` runs the machine to its end.

    Raises ConfigError where the host cannot have this machine, and what `run` raises.
    """
    work = work.on(path)
    place = Place(image, medium.file, medium.next_generation())
    text = bytearray()
    with contextlib.ExitStack() as stack:
        if path in SERVED:
            kind, flags = serve_flags(path, work, [medium.file])
            place = at_socket(place, stack.enter_context(served(kind, flags)), 0)
        machine = build_pc(machine_config(path, work, place), text.extend)
        stack.callback(machine.close)
        markers = Markers(machine)
        outcome = run(machine)
    counts = markers.counts()
    share = judge(work, medium, text.decode("ascii", "replace"), outcome, counts is not None)
    return row_of(path, work, [share], counts or NOTHING)


NOTHING: Final = Counts(0, 0, 0, 0, 0, 0, 0, 0)


def judge(work: Workload, medium: Medium, text: str, outcome: Outcome, marked: bool) -> Share:
    """What one guest got, and whether that is right."""
    result, problem = read_output(text, outcome)
    if result is not None and not problem:
        problem = find_problem(work, result, medium)
    if not problem and not marked:
        problem = "the guest did not mark its timed part"
    if result is None:
        return Share(problem)
    return Share(problem, result["p50_ns"], result["p99_ns"], result["elapsed_ns"], result["watchdog"])


def row_of(path: str, work: Workload, shares: Sequence[Share], counts: Counts) -> Row:
    """One row of one or more guests; `counts` are all theirs."""
    budget = budget_of(path, work, shares[0].watchdog, shares[0].elapsed_ns)
    for share in shares[1:]:
        budget = budget.plus(budget_of(path, work, share.watchdog, share.elapsed_ns))
    problems = [share.problem for share in shares]
    if len(shares) > 1:
        problems = [f"guest {i}: {problem}" for i, problem in enumerate(problems) if problem]
    return Row(
        path,
        work,
        "; ".join(filter(None, problems)),
        counts,
        budget,
        sorted(share.p50_ns for share in shares)[len(shares) // 2],
        max(share.p99_ns for share in shares),
        max(share.elapsed_ns for share in shares),
        tuple(shares),
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


def find_problem(work: Workload, result: GuestResult, medium: Medium) -> str:
    """Compare the guest's word with the host's own arithmetic and with the medium; "" where all agree."""
    wanted = {"bs": work.bs, "qd": work.qd, "count": work.count, "bytes": work.bs * work.count}
    wrong = [f"{name}={result[name]}" for name, value in wanted.items() if result[name] != value]
    if result.op != work.op or wrong:
        return f"the guest did other work: {' '.join([f'op={result.op}', *wrong])}"
    checksum = medium.checksum()
    if result["checksum"] != checksum:
        return f"the guest's checksum is {result['checksum']:#x}, the medium's {checksum:#x}"
    at = medium.wrong_byte()
    return "" if at is None else f"byte {at} of the medium is not what was to be written"
