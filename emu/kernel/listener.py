"""The host kernel's waits of one machine: descriptors whose events become calls, on one thread.

In Linux an irqfd's waiter is a function that runs in the context of whoever writes the eventfd. Another
process cannot call into this one, so a thread waits in its place: for the call events of back-ends in other
processes, for sockets that bring frames, for connections that end.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Final

from emu.errors import EmuError

EVENTS_A_LOOK: Final = 64
HANGUP: Final = select.EPOLLET | select.EPOLLRDHUP
EVENTS: Final = HANGUP | select.EPOLLIN


class Listener:
    """One epoll thread, which begins with the first `watch`. Every method may be called from any thread.

    `fail` is told of what a call raises; the descriptor is watched no more then.
    """

    def __init__(self, fail: Callable[[BaseException], None], name: str = "listener") -> None:
        self._fail, self._name = fail, name
        self._calls: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._poll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._closing = False

    def watch(self, fd: int, call: Callable[[], None], *, hangup: bool = False) -> None:
        """Call whenever `fd` becomes readable, ends or fails; with `hangup` when it ends or fails only.

        Each change is one call, whether or not anybody has read meanwhile. Raises EmuError once closed.
        """
        with self._lock:
            if self._closing:
                raise EmuError("the machine is being closed")
            poll = self._start()
            events = HANGUP if hangup else EVENTS
            known = fd in self._calls
            self._calls[fd] = call
            if known:
                poll.modify(fd, events)
            else:
                poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Call no more for `fd`, which is still open; returns when no call for it is running.

        Harmless for a descriptor that is not watched, and inside of its own call.
        """
        with self._lock:
            if self._calls.pop(fd, None) is None or self._poll is None:
                return
            with contextlib.suppress(OSError):  # closed already: the kernel has forgotten it
                self._poll.unregister(fd)
        self._settle()

    def mute(self, fd: int) -> None:
        """Leave the events of a watched descriptor to somebody else, until `unmute`."""
        assert self._poll is not None
        self._poll.modify(fd, 0)

    def unmute(self, fd: int) -> None:
        """Call for `fd` again, and for what has come and nobody has taken."""
        assert self._poll is not None
        self._poll.modify(fd, EVENTS)

    def close(self) -> None:
        """End the thread; nothing is called any more."""
        with self._lock:
            self._closing = True
            thread, self._thread = self._thread, None
            self._calls.clear()
        if thread is None:
            return
        os.eventfd_write(self._wake, 1)
        if thread is not threading.current_thread():
            thread.join()
        assert self._poll is not None
        self._poll.close()
        os.close(self._wake)

    def _start(self) -> select.epoll:
        if self._poll is None:
            self._poll = select.epoll()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            self._poll.register(self._wake, select.EPOLLIN)
            self._running = threading.RLock()
            self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            self._thread.start()
        return self._poll

    def _settle(self) -> None:
        """Wait until the call that is running now has returned."""
        with self._running:
            pass

    def _main(self) -> None:
        poll, calls, running, wake = self._poll, self._calls, self._running, self._wake
        assert poll is not None
        while not self._closing:
            for fd, _events in poll.poll(-1, EVENTS_A_LOOK):
                if fd == wake:
                    continue
                with running:
                    call = calls.get(fd)
                    if call is not None:
                        self._guarded(fd, call)

    def _guarded(self, fd: int, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # the machine decides
            self.unwatch(fd)
            self._fail(error)
