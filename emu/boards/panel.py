"""The outside of the machine: keyboard, mouse, screen and switches, for whoever sits at it."""

import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from emu.boards.pc import PcBoard
from emu.boards.typist import PACE_NS
from emu.bus.pci import DEVICES, FUNCTIONS
from emu.bus.pci_function import PciFunction
from emu.devices.ps2_keys import Chord
from emu.devices.vga_text import TextScreen
from emu.devices.virtio.balloon import VirtioBalloon
from emu.errors import EmuError

ANSWER_S: Final = 2.0
"""The CPU looks at what is asked of it between two instructions; only a host that blocks it takes longer."""

Answer = TypeVar("Answer")


class Panel:
    """What a person does at the machine, and what can be seen of it. Any thread but the vCPU's own."""

    def __init__(self, board: PcBoard) -> None:
        self._board, self._machine = board, board.machine
        self.press = board.typist.press
        self.key_room = board.typist.room
        self.screen: Callable[[], TextScreen | None] = board.screen
        self.balloon: VirtioBalloon | None = None
        if board.virtio_more is not None:
            self.balloon = next(iter(board.virtio_more.balloons.values()), None)

    def hold_keys(self, chords: Iterable[Chord], hold_ms: int) -> None:
        """Press each chord for that long."""
        self.press(chords, max(PACE_NS, hold_ms * 1_000_000))

    def move_mouse(self, right: int, down: int, wheel_down: int = 0) -> None:
        """Counts on the table; notches of the wheel."""
        self._machine.post(lambda: self._board.mouse.move(right, -down, wheel_down))

    def press_mouse(self, buttons: int) -> None:
        """The buttons that are down from now on: LEFT, RIGHT, MIDDLE of `emu.devices.ps2_mouse`."""
        self._machine.post(lambda: self._board.mouse.press(buttons))

    def send_break(self) -> None:
        """A break on COM1's line."""
        self._machine.post(self._board.com1.receive_break)

    def power_button(self) -> None:
        """Press it: the guest may shut down."""
        self._machine.post(self._board.pm.press_power_button)

    def reset_button(self) -> None:
        """Press it: the machine starts anew."""
        self._machine.post(self._machine.vcpu.reset)

    def nmi(self) -> None:
        """A non-maskable interrupt, as a service button gives it."""
        self._machine.post(self._machine.vcpu.nmi)

    def pause(self) -> None:
        """The CPU stands still until `resume`."""
        self._machine.vcpu.pause()

    def resume(self) -> None:
        """The CPU goes on."""
        self._machine.vcpu.resume()

    @property
    def paused(self) -> bool:
        """Between `pause` and `resume`."""
        return self._machine.vcpu.paused

    @property
    def ram_bytes(self) -> int:
        """The guest's memory."""
        return self._machine.memory.size

    def set_balloon(self, balloon: VirtioBalloon, guest_bytes: int) -> None:
        """Ask the guest to leave all memory but so much to the host."""
        wanted = max(0, self.ram_bytes - guest_bytes)
        self._machine.post(lambda: balloon.set_target(wanted))

    def registers(self) -> dict[str, int]:
        """The CPU's registers by name. Raises EmuError."""
        return self._ask(self._machine.engine.registers)

    def pci_functions(self) -> list[tuple[int, int, PciFunction]]:
        """Device, number and function of everything on the PCI bus."""
        slots = ((device, number) for device in range(DEVICES) for number in range(FUNCTIONS))
        found = ((device, number, self._board.pci.function(device, number)) for device, number in slots)
        return [(device, number, function) for device, number, function in found if function is not None]

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """What `question` gives on the vCPU thread. Raises EmuError where that does not come to it."""
        answers: list[Answer] = []
        done = threading.Event()

        def answer() -> None:
            answers.append(question())
            done.set()

        self._machine.post(answer)
        if not done.wait(ANSWER_S):
            raise EmuError("the CPU does not answer")
        return answers[0]
