"""membarrier(2): make every other running thread of this process pass a full memory barrier.

The CPU engine drops the guest's own barriers (MFENCE, LOCK), so whoever serves a queue on another thread does
the guest's half: publish the index it waits for, call this, look at the ring once more, only then sleep.
"""

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from typing import Final

from emu.errors import ConfigError

PRIVATE_EXPEDITED: Final = 1 << 3
REGISTER_PRIVATE_EXPEDITED: Final = 1 << 4
SYSCALL_NUMBER: Final = {"x86_64": 324, "aarch64": 283}


def private_barrier() -> Callable[[], object]:
    """Register this process and return the barrier: a call of about 1 microsecond.

    Registering twice is harmless. The GIL is kept during the call: giving it away would cost more than it
    takes. Raises ConfigError where the kernel has no such call.
    """
    number = SYSCALL_NUMBER.get(platform.machine())
    if number is None:
        raise ConfigError(f"membarrier: its number on {platform.machine()} is not known; use inline queues")
    libc = ctypes.PyDLL(None, use_errno=True)
    syscall = libc.syscall
    syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_int]
    syscall.restype = ctypes.c_long
    if syscall(number, REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0:
        reason = os.strerror(ctypes.get_errno())
        raise ConfigError(f"membarrier: {reason}; this host can serve inline queues only")
    return functools.partial(syscall, number, PRIVATE_EXPEDITED, 0, 0)
