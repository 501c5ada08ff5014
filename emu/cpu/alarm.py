"""One deadline for one thread: a POSIX timer whose signal runs native code on the vCPU's own thread.

The handler (`on_alarm` in thunks.c) never enters Python. Once due it comes again every millisecond until it
is armed anew, since it may come in the middle of a change of the CPU's requests, which undoes what it asks.
"""

import contextlib
import ctypes as C
import os
import signal
import struct
import threading

from emu.cpu.native.load import LIBC, MachineRecord, native
from emu.errors import EngineError

SIGNAL = signal.SIGRTMIN + 3
_SIGEV_THREAD_ID, _CLOCK_MONOTONIC, _TIMER_ABSTIME = 4, 1, 1
_SA_SIGINFO_RESTART = 0x4 | 0x10000000
_REPEAT_NS = 1_000_000
_SECOND_NS = 1_000_000_000
_installed: list[bool] = []


def _install_handler() -> None:
    """Once a process."""
    if not _installed:
        action = struct.pack("<Q128sI4xQ", native("on_alarm"), bytes(128), _SA_SIGINFO_RESTART, 0)
        if LIBC.sigaction(SIGNAL, action, None):
            raise EngineError(f"signal {SIGNAL} cannot be used: {os.strerror(C.get_errno())}")
        _installed.append(True)


class Alarm:
    """The calling thread's deadline; `record` tells the handler which machine to poke."""

    writes_event = True

    def __init__(self, record: MachineRecord) -> None:
        _install_handler()
        self._value = C.addressof(record)
        self._thread = threading.get_ident()
        self._wake_fd = record.wake_fd
        event = struct.pack("<QiiI44x", self._value, SIGNAL, _SIGEV_THREAD_ID, threading.get_native_id())
        timer = C.c_void_p()
        if LIBC.timer_create(_CLOCK_MONOTONIC, event, C.byref(timer)):
            raise EngineError(f"no timer: {os.strerror(C.get_errno())}")
        self._timer = timer
        self._poke = C.PYFUNCTYPE(C.c_long, C.c_void_p)(native("poke"))
        self._spec = (C.c_int64 * 4)()
        self._at_once = (C.c_int64 * 4)(0, _REPEAT_NS, 0, 1)

    def arm(self, deadline_ns: int) -> None:
        """Signal once the host's monotonic clock reaches `deadline_ns`."""
        spec = self._spec
        spec[1] = _REPEAT_NS
        spec[2], spec[3] = divmod(max(deadline_ns, 1), _SECOND_NS)
        LIBC.timer_settime(self._timer, _TIMER_ABSTIME, spec, None)

    def disarm(self) -> None:
        """No deadline."""
        self._spec[:] = [0, 0, 0, 0]
        LIBC.timer_settime(self._timer, 0, self._spec, None)

    def insist(self) -> None:
        """Signal at once, and again until the next `arm` or `disarm`; from any thread."""
        LIBC.timer_settime(self._timer, _TIMER_ABSTIME, self._at_once, None)

    def now(self) -> int:
        """Have an INTA cycle run soon; from any thread. Returns how many system calls that took."""
        calls = int(self._poke(self._value))
        if calls < 0:  # no membarrier here: on the vCPU's own thread no request is lost
            LIBC.pthread_sigqueue(C.c_void_p(self._thread), SIGNAL, C.c_void_p(self._value))
        return abs(calls)

    def wait(self) -> None:
        """Sleep until the wake-up eventfd is written, by the handler or by another thread, or a signal comes.

        `os.eventfd_read` is one of the few calls that Python does not repeat after a signal.
        """
        with contextlib.suppress(InterruptedError):
            os.eventfd_read(self._wake_fd)

    def close(self) -> None:
        """No more signals."""
        LIBC.timer_delete(self._timer)
