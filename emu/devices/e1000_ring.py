"""A descriptor ring of the 82540EM in guest memory. Source: SDM 3.2.6 (receive) and 3.4 (transmit)."""

from typing import Final

from emu.bus.memory import GuestAddressError, GuestMemory

DESCRIPTOR: Final = 16


class Ring:
    """Base, length, head and tail, as the guest wrote them.

    `words` are the ring's 64-bit words, two a descriptor, stored whole. Empty while the ring is not wholly in
    RAM, or the function may not be bus master, or head or tail lie beyond the ring: then there is no work.
    The ring holds no code, so its stores are not reported to `GuestMemory.written`.
    """

    __slots__ = ("_memory", "allowed", "base", "head", "length", "size", "tail", "usable", "words")

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.allowed = False
        self.reset()

    def reset(self) -> None:
        """No ring at all."""
        self.base = self.length = self.head = self.tail = 0
        self.locate()

    def locate(self) -> None:
        """Base, length or permission have changed."""
        self.size = self.length // DESCRIPTOR
        self.words = memoryview(bytearray()).cast("Q")
        if self.allowed and self.size:
            try:
                self.words = self._memory.view(self.base, self.length).cast("Q")
            except GuestAddressError:
                self.size = 0
        else:
            self.size = 0
        self.check()

    def check(self) -> None:
        """Head or tail were written."""
        self.usable = self.head < self.size and self.tail < self.size

    @property
    def owned(self) -> int:
        """Descriptors that are the hardware's, from head up to tail."""
        return (self.tail - self.head) % self.size if self.usable else 0
