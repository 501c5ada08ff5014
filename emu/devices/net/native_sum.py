"""The sum below a checksum in machine code, where the host runs it: 64 KiB in 4 us, where Python takes 60.

The code is handed addresses and lengths of buffers that Python holds meanwhile, and reads nothing else.
"""

import ctypes
import mmap
import platform
from collections.abc import Callable
from typing import Final

from emu.devices.net.types import Frame

# sum(const void *data, size_t length): rdi, rsi; little-endian 64-bit words, carries added in again
CODE: Final = bytes.fromhex(
    "31c0"  # xor eax, eax
    "4889f1"  # mov rcx, rsi
    "48c1e906"  # shr rcx, 6                    64 bytes a turn
    "742c"  # jz tail
    "480307"  # turn: add rax, [rdi]
    "48134708"  # adc rax, [rdi+8]
    "48134710"  # adc rax, [rdi+16]
    "48134718"  # adc rax, [rdi+24]
    "48134720"  # adc rax, [rdi+32]
    "48134728"  # adc rax, [rdi+40]
    "48134730"  # adc rax, [rdi+48]
    "48134738"  # adc rax, [rdi+56]
    "4883d000"  # adc rax, 0
    "4883c740"  # add rdi, 64
    "48ffc9"  # dec rcx
    "75d4"  # jnz turn
    "89f1"  # tail: mov ecx, esi
    "83e13f"  # and ecx, 63
    "c1e903"  # shr ecx, 3                    8 bytes a turn
    "740f"  # jz rest
    "480307"  # word: add rax, [rdi]
    "4883d000"  # adc rax, 0
    "4883c708"  # add rdi, 8
    "ffc9"  # dec ecx
    "75f1"  # jnz word
    "31d2"  # rest: xor edx, edx
    "83e607"  # and esi, 7
    "7418"  # jz end
    "48c1e208"  # byte: shl rdx, 8             the last bytes are one more word
    "440fb64437ff"  # movzx r8d, byte [rdi+rsi-1]
    "4c09c2"  # or rdx, r8
    "ffce"  # dec esi
    "75ef"  # jnz byte
    "4801d0"  # add rax, rdx
    "4883d000"  # adc rax, 0
    "c3"  # end: ret
)


def load() -> Callable[[Frame], int] | None:
    """A `word_sum` for at least one byte of data; None where the host cannot run it."""
    if platform.machine() != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a host that lets nobody make code
        return None
    page[: len(CODE)] = CODE
    place = ctypes.c_char.from_buffer(page)  # keeps the page
    # holding the GIL: giving it up takes longer than most sums
    add = ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)(ctypes.addressof(place))
    byref, pointed = ctypes.byref, ctypes.c_char.from_buffer

    def word_sum(data: Frame, _place: ctypes.c_char = place) -> int:
        try:
            total: int = add(byref(pointed(data)), len(data))
        except TypeError:  # not writable
            total = add(bytes(data), len(data))
        # 256 times, modulo 0xFFFF: the bytes of each word change places
        return (total << 8) % 0xFFFF

    return word_sum
