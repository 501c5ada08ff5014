"""Call events of other processes, each of which is an interrupt: heard by the halted CPU itself.

While the guest runs, the machine's listener waits for them and pokes the CPU. A halted CPU's thread waits for
nothing else, so it takes the listener's place: one wake-up to the interrupt instead of two.
"""

import os
import select
import threading
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.kernel.listener import Listener

EVENTS_A_LOOK: Final = 64
EVENTS: Final = select.EPOLLIN | select.EPOLLET


class CallEvents:
    """An epoll set that the listener watches, but for the time of `wait`. `costs` are the listener's looks.

    Events come once, to whoever asks first: one that both were woken for is lost to neither and served once.
    """

    def __init__(self, listener: Listener, wake_fd: int) -> None:
        self._listener, self._wake_fd = listener, wake_fd
        self._calls: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll()
        self._poll.register(wake_fd, select.EPOLLIN)
        self._held: dict[int, Callable[[], None]] = {}
        self.halts = 0
        """How often `wait` was called."""
        self._looking = threading.RLock()
        self.costs = Costs()
        listener.watch(self._poll.fileno(), self._look)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call whenever `fd` is signalled, on the listener's thread or the vCPU's. vCPU thread."""
        known = fd in self._calls
        self._calls[fd] = call
        if known:
            self._poll.modify(fd, EVENTS)
        else:
            self._poll.register(fd, EVENTS)

    def unwatch(self, fd: int) -> None:
        """Call no more; returns when no call for it is running. vCPU thread. Harmless when not watched."""
        self._held.pop(fd, None)
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)
            with self._looking:
                pass

    def hold(self, fd: int, ended: Callable[[], None]) -> None:
        """Do not call for `fd` until `release` or a halt, which call `ended`. vCPU thread."""
        self._held[fd] = ended
        self._poll.modify(fd, 0)

    def holds(self, fd: int) -> bool:
        """Between `hold` and its end."""
        return fd in self._held

    def release(self, fd: int) -> None:
        """Call for `fd` again, and at once where it is readable. vCPU thread."""
        ended = self._held.pop(fd)
        self._poll.modify(fd, EVENTS)
        ended()

    def wait(self) -> int:
        """A halted CPU: sleep until its wake-up event is written or a call comes, and make the calls.

        Returns how many system calls that took. vCPU thread.
        """
        self.halts += 1
        if held := list(self._held):
            for each in held:
                self.release(each)
            return len(held)
        fd, listener, taken = self._poll.fileno(), self._listener, 3
        listener.mute(fd)
        events = self._poll.poll(-1, EVENTS_A_LOOK)
        listener.unmute(fd)
        for source, _events in events:
            if source == self._wake_fd:
                os.eventfd_read(source)
                taken += 1
            elif (call := self._calls.get(source)) is not None:
                call()
        return taken

    def _look(self) -> None:
        """Listener's thread."""
        self.costs.syscalls += 2
        with self._looking:
            for source, _events in self._poll.poll(0, EVENTS_A_LOOK):
                if (call := self._calls.get(source)) is not None:
                    call()

    def close(self) -> None:
        """Wait for nothing any more."""
        self._listener.unwatch(self._poll.fileno())
        self._poll.close()
