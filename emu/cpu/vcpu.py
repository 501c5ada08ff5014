"""The vCPU: the run loop around an engine. Interrupts, timers, idle, calls from other threads."""

import enum
import os
import threading
from collections import deque
from collections.abc import Callable

from emu.bus.costs import Costs
from emu.bus.types import InterruptController
from emu.clock import HostClock
from emu.cpu.engine import Deadline, Engine

RETRY_S = 0.05


class Stop(enum.Enum):
    """Why `Vcpu.run` returned."""

    REQUESTED = enum.auto()
    HALTED = enum.auto()
    TRIPLE_FAULT = enum.auto()


class Vcpu:
    """Runs an engine on the thread that calls `run`; a `CpuPins` for the chips.

    `clock`'s timers run on this thread. An engine is made with `wake_fd`. `costs` counts the wake-ups of a
    halted CPU and their system calls.
    """

    def __init__(self, clock: HostClock) -> None:
        self._clock = clock
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._calls: deque[Callable[[], None]] = deque()
        self._stale: deque[tuple[int, int, threading.Event]] = deque()
        self._stop: Stop | None = None
        self._paused = False
        self._failure: BaseException | None = None
        self._thread = 0
        self._alarm: Deadline | None = None
        self._armed: int | None = None
        self.costs = Costs()
        self.outside = Costs()
        self.halts = 0
        self.on_reset: Callable[[], None] = _nobody
        self.wait_halted: Callable[[], int] | None = None
        """Waits for the wake-up event and for more than that; returns how many system calls it took."""
        self._close_engine: Callable[[], None] = _nobody

    def attach(self, engine: Engine, controller: InterruptController) -> None:
        """Give it engine and interrupt controller; once, before `run`."""
        self.engine, self._controller = engine, controller
        self._record = engine.signals
        self._close_engine = engine.close

    @property
    def wake_fd(self) -> int:
        """An eventfd that ends the wait of a halted CPU."""
        return self._wake_fd

    # ---- the run loop ------------------------------------------------------------------------------

    def run(self) -> Stop:
        """Execute the guest until something ends it. Raises what a chip raised, or EngineError."""
        engine, record = self.engine, self._record
        self._thread = threading.get_ident()
        self._alarm = alarm = engine.make_deadline()
        self._clock.on_earlier = self._arm
        self._run_timers()
        try:
            self.run_calls()
            if self._paused:  # and reset meanwhile
                self._wait_resumed()
            if self._controller.pending():  # asked for while nothing ran
                engine.request_interrupt()
            while self._stop is None:
                engine.execute()
                if record.alarm:
                    self._run_timers()
                if self._calls or self._stale:
                    self.run_calls()
                if engine.halted and self._stop is None:
                    self._idle()
        finally:
            self._alarm = None
            alarm.close()
            self._thread = 0
            self.run_calls()
        if self._failure is not None:
            raise self._failure
        stop, self._stop = self._stop, None
        return stop

    def _idle(self) -> None:
        """HLT: wait for something to do. With IF = 0 only an NMI could end it."""
        engine, record, controller, alarm = self.engine, self._record, self._controller, self._alarm
        assert alarm is not None
        self.halts += 1
        if engine.nmi_pending:
            return
        if not engine.interrupts_enabled:
            self._stop = Stop.HALTED
            return
        while not controller.pending():
            record.waiting = 1
            if not (self._calls or self._stale or record.alarm or controller.pending()):
                if self.wait_halted is not None and alarm.writes_event:
                    self.costs.syscalls += self.wait_halted()
                else:
                    alarm.wait()
                    self.costs.syscalls += 1
            record.waiting = 0
            if record.alarm:
                self._run_timers()
            if self._calls or self._stale:
                self.run_calls()
            if self._stop is not None or engine.nmi_pending:
                return
        engine.request_interrupt()

    def acknowledge(self) -> int:
        """The engine may deliver an interrupt now: run due timers, then the INTA cycle."""
        if self._record.alarm:
            self._run_timers()
        if self._calls or self._stale:
            self.engine.stop()
        return self._controller.acknowledge()

    def _run_timers(self) -> None:
        """Make due calls, then arm the next deadline."""
        self._record.alarm = 0
        clock = self._clock
        clock.timers.run_due(clock.now_ns())
        deadline = clock.timers.next_deadline()
        self._armed = deadline
        if self._alarm is not None:
            if deadline is None:
                self._alarm.disarm()
            else:
                self._alarm.arm(deadline + clock.epoch_ns)

    def _arm(self, deadline_ns: int) -> None:
        if self._alarm is not None and (self._armed is None or deadline_ns < self._armed):
            self._armed = deadline_ns
            self._alarm.arm(deadline_ns + self._clock.epoch_ns)
            if self._calls or self._stale:  # the deadline took the place of what brings us to look at them
                self._alarm.insist()

    # ---- from other threads ------------------------------------------------------------------------

    def request_stop(self) -> None:
        """End `run` with REQUESTED; any thread, any time."""
        self.post(self._take_stop)

    def _take_stop(self) -> None:
        if self._stop is None:
            self._stop = Stop.REQUESTED

    @property
    def paused(self) -> bool:
        """Between `pause` and `resume`."""
        return self._paused

    def pause(self) -> None:
        """Execute nothing until `resume`, but make the calls that are posted; any thread. Time goes on."""
        self._paused = True
        self.post(self._wait_resumed)

    def resume(self) -> None:
        """Go on; any thread."""
        self._paused = False
        self.post(_nobody)

    def _wait_resumed(self) -> None:
        alarm, record = self._alarm, self._record
        if alarm is None:  # the run ends, or begins and looks by itself
            return
        while self._paused and self._stop is None:
            alarm.disarm()
            record.alarm = 0
            record.waiting = 1
            if not (self._calls or self._stale):
                alarm.wait()
            record.waiting = 0
            self.run_calls()
        self._run_timers()

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` on the vCPU thread between two guest instructions, soon; from any thread, not waiting.

        Where the CPU does not run, it is made when it starts or ends.
        """
        self._calls.append(call)
        if threading.get_ident() == self._thread:
            self.engine.stop()
        else:
            self._insist()

    def _insist(self) -> None:
        """Bring the vCPU thread to look at what was posted, however long that takes it."""
        alarm = self._alarm
        if alarm is not None:
            alarm.insist()
            if self._record.waiting:
                os.eventfd_write(self._wake_fd, 1)

    def run_calls(self) -> None:
        """Make the calls that were posted."""
        self.forget_stale_code()
        while self._calls:
            self._calls.popleft()()

    def forget_stale_code(self) -> None:
        """Do what a data plane's thread waits for; who waits here for such a thread calls it meanwhile."""
        while self._stale:
            gpa, length, done = self._stale.popleft()
            self.engine.forget_code(gpa, length)
            done.set()

    # ---- pins --------------------------------------------------------------------------------------

    def poke(self) -> None:
        """Ask for an INTA cycle; vCPU thread."""
        self.engine.request_interrupt()

    def poke_from_outside(self) -> None:
        """The same from another thread: wakes a halted CPU, else asks the running one."""
        record = self._record
        if record.waiting:
            record.waiting = 0
            self.outside.handoffs += 1
            self.outside.syscalls += 1
            os.eventfd_write(self._wake_fd, 1)
        elif (alarm := self._alarm) is not None:
            self.outside.syscalls += alarm.now()

    def nmi(self) -> None:
        """Raise NMI; vCPU thread."""
        self.engine.raise_nmi()

    def set_a20(self, enabled: bool) -> None:
        """Address line 20 is always open: no guest since the 80286 needs it closed."""

    def reset(self) -> None:
        """The board's reset line; vCPU thread."""
        self.on_reset()

    def close(self) -> None:
        """Free the engine, where there is one. After this no other thread may poke."""
        self._close_engine()
        os.close(self._wake_fd)

    def shut_down(self) -> None:
        """A triple fault."""
        self._stop = Stop.TRIPLE_FAULT
        self.engine.stop()

    def fail(self, error: BaseException) -> None:
        """Something of ours raised inside the engine, or on a thread of ours: end `run` with it."""
        if self._failure is None:
            self._failure = error
            self._stop = Stop.REQUESTED
        self.post(_nobody)  # leave the engine

    def memory_written(self, gpa: int, length: int) -> None:
        """`GuestMemory.on_written`: translated code must go before the guest learns of the data."""
        engine = self.engine
        if length and engine.holds_code(gpa, length):
            if threading.get_ident() == self._thread or not self._thread:
                engine.forget_code(gpa, length)
            else:
                done = threading.Event()
                self._stale.append((gpa, length, done))
                self._insist()
                while self._thread and not done.wait(RETRY_S):
                    pass


def _nobody() -> None:
    """No board listens."""
