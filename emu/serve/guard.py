"""A front-end may cut the file of its memory short: touching a page that is gone is SIGBUS, our end.

So a handler in machine code puts a page of zeros of our own there, keeps the address, and the access goes on
(the host kernel's own accesses, e.g. preadv into such a page, fail with EFAULT instead). Whoever serves asks
`take` now and then and ends that front-end's session.
"""

import ctypes
import mmap
import platform
import signal
from typing import Final

SA_SIGINFO: Final = 4
WORDS: Final = 8
"""Bytes at the start of the page before the code: the first address that faulted, 0 where there is none."""

# handler(signal, siginfo *info, void *context): rdi, rsi, rdx
CODE: Final = bytes.fromhex(
    "488b7e10"  # mov rdi, [rsi+16]             info->si_addr
    "4881e700f0ffff"  # and rdi, -4096
    "488d05e6ffffff"  # lea rax, [rip-26]             the word before the code
    "488938"  # mov [rax], rdi
    "be00100000"  # mov esi, 4096
    "ba03000000"  # mov edx, PROT_READ|PROT_WRITE
    "41ba32000000"  # mov r10d, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS
    "49c7c0ffffffff"  # mov r8, -1
    "4531c9"  # xor r9d, r9d
    "b809000000"  # mov eax, 9                    mmap
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7901"  # jns +1
    "f4"  # hlt                           no page to be had: SIGSEGV
    "c3"  # ret
)


class _Action(ctypes.Structure):
    """struct sigaction of the C library on x86-64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class BusGuard:
    """Holds the handler from `install` to `close`; on other hosts than x86-64 it does nothing."""

    def __init__(self) -> None:
        self._before: _Action | None = None
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page[WORDS : WORDS + len(CODE)] = CODE
        self._words = memoryview(self._page)[:WORDS].cast("Q")

    def install(self) -> None:
        """Catch SIGBUS from now on."""
        if platform.machine() != "x86_64":
            return
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        action, before = _Action(), _Action()
        action.handler, action.flags = base + WORDS, SA_SIGINFO
        ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before))
        self._before = before

    def close(self) -> None:
        """Whatever was before is back. The page stays: a signal may be on its way."""
        if self._before is not None:
            ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(self._before), None)
            self._before = None

    def take(self) -> int:
        """The address of a page that faulted since the last call, 0 where none did."""
        address, self._words[0] = self._words[0], 0
        return address
