"""membarrier(2): make every other running thread pass a full memory barrier.

The CPU engine drops the guest's own barriers (MFENCE, LOCK), so whoever serves a queue on another thread does
the guest's half: publish the index it waits for, call this, look at the ring once more, only then sleep.
Within a process that is `private_barrier`. Between processes the machine's process joins with
`join_global_barrier` and the one that serves calls `global_barrier`.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Final

from emu.errors import ConfigError

GLOBAL_EXPEDITED: Final = 1 << 1
REGISTER_GLOBAL_EXPEDITED: Final = 1 << 2
PRIVATE_EXPEDITED: Final = 1 << 3
REGISTER_PRIVATE_EXPEDITED: Final = 1 << 4
SYSCALL_NUMBER: Final = {"x86_64": 324, "aarch64": 283}


def private_barrier() -> Callable[[], object]:
    """Register this process and return the barrier of its own threads: a call of about 1 microsecond.

    Registering twice is harmless. Raises ConfigError where the kernel has no such call.
    """
    call = _membarrier(REGISTER_PRIVATE_EXPEDITED)
    return functools.partial(call, PRIVATE_EXPEDITED, 0, 0)


def join_global_barrier() -> None:
    """From now on this process' threads pass a barrier whenever any process calls its `global_barrier`.

    For the process whose guest's queues another process serves. Raises ConfigError as above.
    """
    _membarrier(REGISTER_GLOBAL_EXPEDITED)


def global_barrier() -> Callable[[], object]:
    """The barrier of all processes that joined: 1 to 2 microseconds. Raises ConfigError as above."""
    call = _membarrier(REGISTER_GLOBAL_EXPEDITED)
    return functools.partial(call, GLOBAL_EXPEDITED, 0, 0)


def _membarrier(register: int) -> Callable[[int, int, int], object]:
    """The system call, after one with the command `register`.

    The GIL is kept during the call: giving it away would cost more than it takes.
    """
    number = SYSCALL_NUMBER.get(os.uname().machine)
    if number is None:
        raise ConfigError(f"membarrier: its number on {os.uname().machine} is not known; use inline queues")
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_int]
    syscall.restype = ctypes.c_long
    if syscall(number, register, 0, 0) < 0:
        reason = os.strerror(ctypes.get_errno())
        raise ConfigError(f"membarrier: {reason}; this host can serve inline queues only")
    return functools.partial(syscall, number)
