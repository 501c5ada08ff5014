"""Host bytes on their way into a UART: they wait here while the UART has no room."""

from collections import deque

from emu.cpu.vcpu import Vcpu
from emu.devices.serial_16550 import Serial16550


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

    def _feed(self) -> None:
        while self._waiting and (room := self._uart.room()):
            data = self._waiting.popleft()
            if len(data) > room:
                self._waiting.appendleft(data[room:])
            self._uart.receive(data[:room])
