"""One local APIC's interrupt state in memory that machine code can read: IRR, ISR, TMR, PPR, posted requests.

Only the vCPU's thread touches the registers, in Python or in the CPU's native INTA cycle. Any other thread
*posts*: one byte per vector, one flag, both plain stores, so that neither a lock nor the GIL stands between a
data plane and the guest's handler (the idea of Intel's posted interrupts, SDM volume 3, 29.6).
"""

from array import array
from typing import Final

# Layout in 64-bit words; struct apic of the CPU's thunks.c is the same.
POSTED, IRR, ISR, TMR, PPR, OUTSTANDING, ENABLED, EXTERNAL = 0, 32, 36, 40, 44, 45, 46, 47
TPR, EOIS, XAPIC, X2APIC, WORDS = 48, 49, 50, 51, 52
_MASK: Final = (1 << 64) - 1


class InterruptBlock:
    """One APIC's words at `address`. `post` from any thread, everything else on the vCPU's."""

    __slots__ = ("_memory", "address", "posted", "words")

    def __init__(self) -> None:
        self._memory = array("Q", bytes(8 * WORDS))
        self.address = self._memory.buffer_info()[0]
        self.words = memoryview(self._memory)
        self.posted = self.words.cast("B")

    def post(self, vector: int) -> None:
        """Request an edge-triggered interrupt; the byte first, then the flag."""
        self.posted[vector] = 1
        self.words[OUTSTANDING] = 1

    def fold(self) -> None:
        """Move what was posted into IRR."""
        words, posted = self.words, self.posted
        if not words[OUTSTANDING]:
            return
        words[OUTSTANDING] = 0  # before looking: a later post sets it again
        requests = posted[: 8 * IRR].tobytes()
        vector = requests.find(1)
        while vector >= 0:
            posted[vector] = 0
            self.set(IRR, vector)
            self.clear(TMR, vector)
            vector = requests.find(1, vector + 1)

    def set(self, register: int, vector: int) -> None:
        """Set one vector's bit of IRR, ISR or TMR."""
        self.words[register + (vector >> 6)] |= 1 << (vector & 63)

    def clear(self, register: int, vector: int) -> None:
        """Clear one vector's bit."""
        self.words[register + (vector >> 6)] &= _MASK ^ 1 << (vector & 63)

    def test(self, register: int, vector: int) -> bool:
        """One vector's bit."""
        return bool(self.words[register + (vector >> 6)] >> (vector & 63) & 1)

    def highest(self, register: int) -> int:
        """The highest vector whose bit is set, or -1."""
        words = self.words
        for i in (3, 2, 1, 0):
            word = words[register + i]
            if word:
                return i << 6 | word.bit_length() - 1
        return -1

    def wanted(self) -> bool:
        """INTA would give a vector: the same as `deliverable() >= 0`, and cheap where the answer is plain."""
        words = self.words
        if words[OUTSTANDING]:
            return not words[PPR] >> 4 or self.deliverable() >= 0  # every good vector is above class 0
        return self.requested() and self.deliverable() >= 0

    def requested(self) -> bool:
        """Something waits in IRR."""
        words = self.words
        return bool(words[IRR] | words[IRR + 1] | words[IRR + 2] | words[IRR + 3])

    def deliverable(self) -> int:
        """The vector that INTA would give, or -1: above the processor priority's class (11.8.3)."""
        self.fold()
        highest = self.highest(IRR)
        return highest if highest >> 4 > self.words[PPR] >> 4 else -1

    def take(self, vector: int) -> None:
        """INTA of a deliverable vector: from IRR to ISR; it was above PPR, so it now sets it."""
        self.clear(IRR, vector)
        self.set(ISR, vector)
        self.words[PPR] = vector & 0xF0

    def reset(self) -> None:
        """Forget everything."""
        self._memory[:] = array("Q", bytes(8 * WORDS))
