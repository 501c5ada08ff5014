"""One guest in a process of its own, for `fleet`: `python -m emu.compare.guest`.

Standard input's first line is a `Job` as JSON. At each of the guest's marks the process says the mark's name
on standard output and waits for one line more of input, so that all guests begin together, and nobody's end
disturbs the others. Its last line is the result as JSON. The process ends when its input does.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Final

from emu.boards.pc import build_pc
from emu.compare.counts import Counts
from emu.compare.machines import Place, machine_config
from emu.compare.markers import MARK_BEGIN, MARK_END, Markers
from emu.compare.workloads import Features, Workload
from emu.config import Outcome, OutcomeKind
from emu.errors import EmuError
from emu.machine import Machine

NAMES: Final = {MARK_BEGIN: "begin", MARK_END: "end"}
STOPPED: Final = Outcome(OutcomeKind.STOPPED)


@dataclass(frozen=True, slots=True)
class Job:
    """What one guest is to do, and where."""

    path: str
    work: Workload
    place: Place
    core: int = -1
    """What the process keeps to, or -1."""

    def line(self) -> str:
        """As `read` takes it."""
        work, place = asdict(self.work), self.place._asdict()
        return json.dumps({"path": self.path, "work": work, "place": place, "core": self.core})

    @staticmethod
    def read(line: str) -> "Job":
        """The other way round."""
        found = json.loads(line)
        features = Features(*found["work"].pop("features"))
        work = Workload(**found["work"], features=features)
        return Job(found["path"], work, Place(**found["place"]), found["core"])


@dataclass(frozen=True, slots=True)
class Report:
    """How it went; `refused` is why there was no machine."""

    text: str = ""
    outcome: Outcome = STOPPED
    counts: Counts | None = None
    refused: str = ""

    def line(self) -> str:
        """As `read` takes it."""
        outcome = (self.outcome.kind.value, self.outcome.value)
        return json.dumps([self.text, outcome, self.counts, self.refused])

    @staticmethod
    def read(line: str) -> "Report":
        """The other way round."""
        text, (kind, value), counts, refused = json.loads(line)
        outcome = Outcome(OutcomeKind(kind), value)
        return Report(text, outcome, None if counts is None else Counts(*counts), refused)


def main() -> None:
    """Do one job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the parent, who ends this process
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    line = sys.stdin.readline()
    if not line:
        return  # the parent has ended already
    try:
        report = _do(Job.read(line))
    except (EmuError, OSError) as error:
        report = Report(refused=str(error))
    print(report.line(), flush=True)


def _do(job: Job) -> Report:
    text = bytearray()
    if job.core >= 0:
        os.sched_setaffinity(0, {job.core})
    machine = build_pc(machine_config(job.path, job.work, job.place), text.extend)
    try:
        _end_with_input(machine)
        markers = Markers(machine, _hold)
        outcome = machine.run()
    finally:
        machine.close()
    return Report(text.decode("ascii", "replace"), outcome, markers.counts())


def _end_with_input(machine: Machine) -> None:
    """Nobody waits for this guest any more once the parent is gone."""
    fd = sys.stdin.fileno()
    machine.listener.watch(fd, lambda: os._exit(1), hangup=True)
    machine.on_close.insert(0, lambda: machine.listener.unwatch(fd))


def _hold(mark: int) -> None:
    print(NAMES[mark], flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
