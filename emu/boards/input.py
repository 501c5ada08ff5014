"""Host bytes on their way into a UART: they wait here while the UART has no room."""

from collections import deque
from typing import Final

from emu.cpu.vcpu import Vcpu
from emu.devices.serial_16550 import Serial16550

ENOUGH: Final = 1 << 16
"""Bytes that wait at most, if the sender minds `room`."""


class SerialFeed:
    """Any thread writes, the vCPU thread feeds; nothing is lost while the guest is slow."""

    def __init__(self, vcpu: Vcpu, uart: Serial16550) -> None:
        self._vcpu, self._uart = vcpu, uart
        self._waiting: deque[bytes] = deque()
        uart.on_room = self._feed

    def write(self, data: bytes) -> None:
        """Queue bytes for the guest; any thread."""
        self._waiting.append(data)
        self._vcpu.post(self._feed)

    def room(self) -> int:
        """How many more bytes should be given; any thread."""
        return ENOUGH - sum(map(len, tuple(self._waiting)))

    def _feed(self) -> None:
        while self._waiting and (room := self._uart.room()):
            data = self._waiting.popleft()
            if len(data) > room:
                self._waiting.appendleft(data[room:])
            self._uart.receive(data[:room])
