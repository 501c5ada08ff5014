"""The monitor's commands. Source of names and arguments: QEMU's "System Emulation", "QEMU Monitor"."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from emu import __version__
from emu.bus.pci_bar import BarKind
from emu.bus.pci_config import (
    CLASS_CODE,
    DEVICE_ID,
    INTERRUPT_LINE,
    SUBSYSTEM_ID,
    SUBSYSTEM_VENDOR_ID,
    VENDOR_ID,
)
from emu.bus.pci_function import PciFunction
from emu.cli.options import nearest, number
from emu.devices.ps2_keys import Chord, key_named
from emu.devices.ps2_mouse import LEFT, MIDDLE, RIGHT
from emu.errors import ConfigError, EmuError

if TYPE_CHECKING:
    from emu.boards.panel import Panel

MIB: Final = 1 << 20
HOLD_MS, LONGEST_HOLD_MS, MOST_KEYS = 100, 60_000, 16
FARTHEST: Final = 1 << 16
BUTTONS: Final = ((1, LEFT), (2, MIDDLE), (4, RIGHT))
"""The monitor's bit of each button and the mouse's."""
CLASSES: Final = {
    0x0101: "IDE controller", 0x0100: "SCSI controller", 0x0200: "Ethernet controller", 0x0600: "Host bridge",
    0x0601: "ISA bridge", 0x0780: "Communication controller",
}  # fmt: skip
GENERAL: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)


class Command(NamedTuple):
    """One command: the words it takes, at least `least` of them, and what it does. `run` gives the output."""

    arguments: str
    help: str
    least: int
    most: int
    run: Callable[[list[str]], str]


class Monitor:
    """Executes lines. `quit_run()` ends the run. What cannot be done is told in one line; nothing raises."""

    def __init__(self, panel: "Panel", quit_run: Callable[[], None]) -> None:
        self._panel, self._quit = panel, quit_run
        self._commands = self._table()
        self._infos = self._info_table()

    def execute(self, line: str) -> str:
        """Run one line; return what it prints: nothing, or lines that each end with a line feed."""
        words = line.split()
        if not words:
            return ""
        try:
            return self._run(words[0], self._commands, words[1:], "")
        except EmuError as error:
            return f"Error: {error}\n"

    @staticmethod
    def _run(name: str, table: Mapping[str, Command], words: list[str], prefix: str) -> str:
        command = table.get(name)
        if command is None:
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            raise ConfigError(f'unknown command "{prefix}{shown}"; {nearest(shown, table)}')
        if not command.least <= len(words) <= command.most:
            raise ConfigError(f"usage: {prefix}{name} {command.arguments}".rstrip())
        return command.run(words)

    def _table(self) -> dict[str, Command]:
        panel = self._panel
        quit_command = Command("", "end the run", 0, 0, _silent(self._quit))
        stop = Command("", "stop the CPU; the guest's clock goes on", 0, 0, _silent(panel.pause))
        cont = Command("", "let the CPU go on", 0, 0, _silent(panel.resume))
        help_command = Command("[COMMAND]", "this list", 0, 1, self._help)
        return {
            "help": help_command,
            "?": help_command,
            "quit": quit_command,
            "q": quit_command,
            "info": Command("WHAT", "show something; info alone lists what", 0, 1, self._info),
            "stop": stop,
            "s": stop,
            "cont": cont,
            "c": cont,
            "system_reset": Command("", "press the reset button", 0, 0, _silent(panel.reset_button)),
            "system_powerdown": Command("", "press the power button", 0, 0, _silent(panel.power_button)),
            "nmi": Command("", "send a non-maskable interrupt", 0, 0, _silent(panel.nmi)),
            "sendkey": Command("KEY[-KEY...] [MS]", "press keys, such as ctrl-alt-f1", 1, 2, self._sendkey),
            "mouse_move": Command(
                "DX DY [DZ]", "move the mouse; DZ: wheel up or down", 2, 3, self._mouse_move
            ),
            "mouse_button": Command(
                "STATE", "1 left + 2 middle + 4 right are down", 1, 1, self._mouse_button
            ),
            "balloon": Command("MIB", "ask the guest to make do with so much memory", 1, 1, self._balloon),
        }

    def _info_table(self) -> dict[str, Command]:
        return {
            "balloon": Command(
                "", "the memory that the guest has", 0, 0, lambda _words: self._info_balloon()
            ),
            "pci": Command("", "what is on the PCI bus", 0, 0, lambda _words: self._info_pci()),
            "registers": Command("", "the CPU's registers", 0, 0, lambda _words: self._info_registers()),
            "screen": Command("", "the text on the VGA screen", 0, 0, lambda _words: self._info_screen()),
            "status": Command("", "running or paused", 0, 0, lambda _words: self._info_status()),
            "version": Command("", "the emulator's version", 0, 0, lambda _words: f"emu {__version__}\n"),
        }

    def _help(self, words: list[str]) -> str:
        if not words:
            return _listed(self._commands, "")
        if words[0] not in self._commands:
            raise ConfigError(f'unknown command "{words[0]}"; {nearest(words[0], self._commands)}')
        return _listed({words[0]: self._commands[words[0]]}, "")

    def _info(self, words: list[str]) -> str:
        if not words:
            return _listed(self._infos, "info ")
        return self._run(words[0], self._infos, [], "info ")

    # ---- keyboard and mouse ------------------------------------------------------------------------

    def _sendkey(self, words: list[str]) -> str:
        hold_ms = number("MS", words[1], 1, LONGEST_HOLD_MS) if len(words) > 1 else HOLD_MS
        self._panel.hold_keys([parse_keys(words[0])], hold_ms)
        return ""

    def _mouse_move(self, words: list[str]) -> str:
        right, down = (_signed(name, word) for name, word in zip(("DX", "DY"), words, strict=False))
        wheel = _signed("DZ", words[2]) if len(words) > 2 else 0
        self._panel.move_mouse(right, down, (wheel < 0) - (wheel > 0))  # one notch, however large DZ is
        return ""

    def _mouse_button(self, words: list[str]) -> str:
        state = number("STATE", words[0], 0, 7)
        self._panel.press_mouse(sum(button for bit, button in BUTTONS if state & bit))
        return ""

    # ---- the rest ----------------------------------------------------------------------------------

    def _balloon(self, words: list[str]) -> str:
        balloon = self._panel.balloon
        if balloon is None:
            raise ConfigError("there is no balloon; start with -device virtio-balloon-pci")
        self._panel.set_balloon(balloon, number("MIB", words[0], 1, 1 << 20) * MIB)
        return ""

    def _info_balloon(self) -> str:
        balloon = self._panel.balloon
        if balloon is None:
            raise ConfigError("there is no balloon; start with -device virtio-balloon-pci")
        return f"balloon: actual={(self._panel.ram_bytes - balloon.actual) // MIB}\n"

    def _info_status(self) -> str:
        return f"VM status: {'paused' if self._panel.paused else 'running'}\n"

    def _info_screen(self) -> str:
        screen = self._panel.screen()
        if screen is None:
            raise ConfigError("the screen is in a graphics mode")
        return "".join(f"{line.rstrip()}\n" for line in screen.lines)

    def _info_registers(self) -> str:
        found = self._panel.registers()
        cells = [f"{name.upper():<3}={found[name]:016x}" for name in GENERAL]
        lines = [" ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)]
        lines.append(f"RIP={found['rip']:016x} RFL={found['rflags']:08x}")
        lines.append(
            " ".join(f"{name.upper()}={found[name]:04x}" for name in ("es", "cs", "ss", "ds", "fs", "gs"))
        )
        for pair in (("cr0", "cr2"), ("cr3", "cr4")):
            lines.append(" ".join(f"{name.upper()}={found[name]:016x}" for name in pair))
        return "".join(f"{line}\n" for line in [*lines, f"EFER={found['efer']:016x}"])

    def _info_pci(self) -> str:
        return "".join(_shown(*entry) for entry in self._panel.pci_functions())


def parse_keys(text: str) -> Chord:
    """The keys of `sendkey`: names joined by '-'. Raises ConfigError."""
    names = text.split("-")
    if text.endswith("-"):  # the minus key by its character
        names[-2:] = ["minus"]
    if len(names) > MOST_KEYS:
        raise ConfigError(f"{len(names)} keys are too many; {MOST_KEYS} can be pressed at once")
    codes = []
    for name in names:
        code = key_named(name)
        if code is None:
            raise ConfigError(
                f'no key is called "{name[:20]}"; ctrl-alt-delete, ret, spc, f1 and a are examples'
            )
        codes.append(code)
    return tuple(codes)


def _signed(what: str, text: str) -> int:
    """A number of either sign. Raises ConfigError."""
    value = number(what, text.removeprefix("-"), 0, FARTHEST)
    return -value if text.startswith("-") else value


def _silent(call: Callable[[], None]) -> Callable[[list[str]], str]:
    def run(_words: list[str]) -> str:
        call()
        return ""

    return run


def _listed(commands: Mapping[str, Command], prefix: str) -> str:
    """A line for each command, its other names with it."""
    lines: dict[str, str] = {}
    for name, command in commands.items():
        before = f"{lines[command.help]}|" if command.help in lines else ""
        lines[command.help] = before + prefix + name
    arguments = {command.help: command.arguments for command in commands.values()}
    heads = {text: f"{names} {arguments[text]}".rstrip() for text, names in lines.items()}
    return "".join(f"{head} -- {text}\n" for text, head in heads.items())


def _shown(device: int, function_number: int, function: PciFunction) -> str:
    """One PCI function, in the form that QEMU gives it."""
    config = function.config
    ids = (config.get(at, 2) for at in (VENDOR_ID, DEVICE_ID, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID))
    vendor, chip, subsystem_vendor, subsystem = ids
    class_code = config.get(CLASS_CODE + 1, 2)
    kind = CLASSES.get(class_code, f"Class {class_code:04x}")
    lines = [f"  Bus  0, device {device:3}, function {function_number}:"]
    lines.append(f"    {kind}: PCI device {vendor:04x}:{chip:04x}")
    if subsystem_vendor:
        lines.append(f"      PCI subsystem {subsystem_vendor:04x}:{subsystem:04x}")
    if function.intx_pin:
        lines.append(f"      IRQ {config.get(INTERRUPT_LINE, 1)}, pin {'ABCD'[function.intx_pin - 1]}")
    for bar in function.bars:
        base = function.bar_base(bar.number)
        bits = {BarKind.IO: "I/O", BarKind.MEM32: "32 bit memory", BarKind.MEM64: "64 bit memory"}[bar.kind]
        where = "off" if base is None else f"at {base:#x} [{base + bar.size - 1:#x}]"
        lines.append(f"      BAR{bar.number}: {bits} {where}.")
    lines.append(f'      id "{function.name}"')
    return "\n".join(lines) + "\n"
