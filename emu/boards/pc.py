"""The board `pc`: which chips, at which addresses, on which interrupts. Like QEMU's pc, as far as it goes."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from emu.boards.disks import Disk, Disks
from emu.boards.firmware import SCI, Addresses, Loader, hardware_of
from emu.boards.input import SerialFeed
from emu.boards.legacy import LegacyChips, map_debugcon
from emu.boards.typist import Typist
from emu.boot.linux16 import kernel_items, needs_firmware
from emu.boot.pci_setup import HIGH_WINDOW, PIRQ_IRQS
from emu.bus.irq import Gate, Line, Pin
from emu.bus.pci import CONFIG_PORT, CONFIG_PORTS, PciBus
from emu.bus.window import Absent
from emu.config import DeviceConfig, FilePath, MachineConfig, Outcome, OutcomeKind
from emu.cpu.state import StartState
from emu.devices.acpi_pm import AcpiPm
from emu.devices.debug_exit import DebugExit
from emu.devices.fw_cfg import DMA_OFFSET, DMA_PORTS, FwCfg, e820_file, standard_items
from emu.devices.host_bridge import Piix3IsaBridge, ShadowRam, host_bridge
from emu.devices.hpet import Hpet
from emu.devices.ioapic import IoApic
from emu.devices.lapic import Lapic
from emu.devices.pic_8259 import Pic8259Pair
from emu.devices.piix3_ide import Piix3Ide
from emu.devices.pit_8254 import Pit8254
from emu.devices.post_code import PostCode
from emu.devices.ps2_8042 import WRITE_COMMAND_BYTE, Ps2Controller
from emu.devices.ps2_keyboard import Ps2Keyboard
from emu.devices.ps2_mouse import Ps2Mouse
from emu.devices.rtc_mc146818 import RtcMc146818
from emu.devices.serial_16550 import Serial16550
from emu.devices.system_control import ResetControl, SystemControlA, SystemControlB
from emu.devices.vga_text import BASE as VGA
from emu.devices.vga_text import PORTS as VGA_PORTS
from emu.devices.vga_text import TEXT_MEMORY, TEXT_SIZE, TextScreen, VgaText
from emu.devices.x2apic import x2apic_registers
from emu.errors import ConfigError, MapError
from emu.machine import Machine

if TYPE_CHECKING:
    from emu.boards.initrd_check import InitrdCheck
    from emu.boards.net import Nets
    from emu.boards.vhost_user import VhostUserDevices
    from emu.boards.virtio_more import VirtioMore
    from emu.devices.virtio.device import VirtioDevice

IRQ_TIMER, IRQ_KEYBOARD, IRQ_COM1, IRQ_RTC, IRQ_SCI, IRQ_MOUSE, IRQ_IDE0, IRQ_IDE1 = 0, 1, 4, 8, 9, 12, 14, 15
IRQS: Final = [irq for irq in range(16) if irq != 2]

PIC0, PIC1, ELCR = 0x20, 0xA0, 0x4D0
PIT, CONTROL_B, CMOS, POST, CONTROL_A = 0x40, 0x61, 0x70, 0x80, 0x92
PS2_DATA, PS2_COMMAND = 0x60, 0x64
COM1, PM_BASE, FW_CFG = 0x3F8, 0x600, 0x510
IDE: Final = ((0x1F0, 0x3F6, IRQ_IDE0), (0x170, 0x376, IRQ_IDE1))
IOAPIC: Final = 0xFEC0_0000
LAPIC: Final = 0xFEE0_0000
HPET: Final = 0xFED0_0000
ADDRESSES: Final = Addresses(ioapic=IOAPIC, pm_base=PM_BASE, reset_port=0xCF9)
DEVICES: Final = range(0xE000_0000, 1 << 32)
"""From the first PCI window up to 4 GiB, ROM included: uncached, as firmware has it."""
LEVEL_IRQS: Final = 1 << SCI | sum(1 << irq for irq in set(PIRQ_IRQS))
IOAPIC_TIMER_PIN: Final = 2  # IRQ 0; IRQ 2 is the 8259's cascade, all others have the pin of their number
DEBUG_EXIT_BASE, DEBUG_EXIT_SIZE = 0x501, 2
ISA_BRIDGE_SLOT: Final = 1
KEYBOARD_ON: Final = 0x65
"""The 8042's command byte as firmware leaves it: keyboard and its interrupt on, codes translated to set 1."""
IDE_FUNCTION: Final = 1


class Resettable(Protocol):
    """A chip with a RESET pin."""

    def reset(self) -> None:
        """As after power-on."""


class PcBoard:
    """The chips of one machine and their wires."""

    def __init__(
        self, machine: Machine, config: MachineConfig, serial_out: Callable[[bytes], object]
    ) -> None:
        self.machine, self._config = machine, config
        self.initrd_check: InitrdCheck | None = None
        self._has_firmware = config.kernel is None or config.bios is not None or needs_firmware(config.kernel)
        cpu, clock = machine.vcpu, machine.clock
        self.pic = Pic8259Pair(self._intr_changed)
        self.lapic = Lapic(clock, cpu, self.pic)
        self.ioapic = IoApic(self.lapic)
        self.lapic.on_eoi = self.ioapic.eoi
        self._pin2 = Pin(partial(self.ioapic.set_pin, IOAPIC_TIMER_PIN))
        self._irq_pins = {irq: Pin(self._irq_driver(irq)) for irq in IRQS}
        self._timer_gate, self._clock_gate = Gate(self._irq(IRQ_TIMER)), Gate(self._irq(IRQ_RTC))
        self.pit = Pit8254(clock, out0=self._timer_gate)
        low, *high = (piece.size for piece in machine.memory.ranges)
        self.rtc = RtcMc146818(
            clock, self._clock_gate, int(time.time()), ram_below_4g=low, ram_above_4g=sum(high)
        )
        self.ps2 = Ps2Controller(
            self._irq(IRQ_KEYBOARD), self._irq(IRQ_MOUSE), set_a20=cpu.set_a20, reset=cpu.reset
        )
        self.keyboard = Ps2Keyboard(self.ps2.keyboard.ready, lambda: self.ps2.translated)
        self.mouse = Ps2Mouse(self.ps2.aux.ready)
        self.ps2.keyboard.device, self.ps2.aux.device = self.keyboard, self.mouse
        self.typist = Typist(clock, self.keyboard, machine.post)
        self.com1 = Serial16550(irq=self._irq(IRQ_COM1), out=serial_out, clock=clock)
        self.pm = AcpiPm(clock, sci=self._irq(IRQ_SCI), on_power_off=self._power_off, always_acpi=True)
        self.control_a = SystemControlA(cpu.set_a20, cpu.reset)
        self.control_b = SystemControlB(clock, self.pit)
        self.reset_control = ResetControl(cpu.reset)
        self.post = PostCode()
        self.vga = VgaText()
        self.fw_cfg = self._make_fw_cfg()
        self.isa_bridge = Piix3IsaBridge(
            [self._irq(irq) if irq in self._irq_pins else _NOWHERE for irq in range(16)]
        )
        self.pci = PciBus(
            machine.mmio,
            machine.pio,
            self.isa_bridge.pirq,
            reset_control=self.reset_control,
            tell=machine.faults.tell,
        )
        self._map_ports()
        self.legacy = LegacyChips(machine.pio, self.pm)
        machine.on_close.append(map_debugcon(machine.pio, config.debugcon, config.debugcon_port))
        machine.mmio.map(IOAPIC, self.ioapic, "ioapic", "irqchip")
        self.hpet = self._make_hpet() if config.hpet else None
        self._lapic_base: int | None = None
        self._lapic_moved(LAPIC)
        self.lapic.on_window = self._lapic_moved
        for index, (read, write) in x2apic_registers(self.lapic).items():
            machine.msrs.add(index, read, write)
        bridge = host_bridge()
        self.pci.add(bridge, 0)
        self.shadow_ram = ShadowRam(bridge, machine.protect)
        self.pci.add(self.isa_bridge.function, ISA_BRIDGE_SLOT)
        self._add_disks()
        for device in config.devices:
            if device.driver == "isa-debug-exit":
                self._add_debug_exit(device)
            elif device.driver == "pc-testdev":
                self._add_testdev()
        self.virtio_more: VirtioMore | None = None
        names = {device.driver for device in config.devices} - {"virtio-blk-pci", "virtio-net-pci"}
        if any(name.startswith("virt") for name in names):
            self.virtio_more = self._more_virtio()
        self.nets = self._nets() if config.netdevs else None
        self.vhost_user: VhostUserDevices | None = None
        if any(name.startswith("vhost-user-") for name in names):
            self.vhost_user = self._vhost_user()

    def _intr_changed(self, level: bool) -> None:
        """The 8259 pair's INTR is wired to the local APIC's LINT0."""
        self.lapic.ext_int_changed(level)

    def _lapic_moved(self, base: int | None) -> None:
        """IA32_APIC_BASE has a new address or mode. Over RAM or another chip the window does not answer."""
        mmio = self.machine.mmio
        if self._lapic_base is not None:
            mmio.unmap(self._lapic_base)
            self._lapic_base = None
        if base is not None:
            with contextlib.suppress(MapError):
                mmio.map(base, self.lapic, "lapic", "irqchip")
                self._lapic_base = base

    def _irq(self, irq: int) -> Line:
        return self._irq_pins[irq].line()

    def _irq_driver(self, irq: int) -> Callable[[bool], None]:
        """An ISA interrupt is wired to the 8259 pair and to the I/O APIC."""
        to_pic = self.pic.set_irq
        to_ioapic = partial(self.ioapic.set_pin, irq) if irq else self._pin2.line().set

        def drive(level: bool) -> None:
            to_pic(irq, level)
            to_ioapic(level)

        return drive

    def _make_hpet(self) -> Hpet:
        """Like the PIT it has no place of its own: IRQ 0, IRQ 8, and the I/O APIC's pin 2."""
        hpet = Hpet(
            self.machine.clock,
            legacy=(self._irq(IRQ_TIMER), self._irq(IRQ_RTC)),
            routes={IOAPIC_TIMER_PIN: self._pin2.line()},
            on_legacy=self._hpet_legacy,
        )
        self.machine.mmio.map(HPET, hpet, "hpet")
        return hpet

    def _hpet_legacy(self, on: bool) -> None:
        """Legacy replacement cuts PIT and clock off from their interrupts."""
        self._timer_gate.switch(not on)
        self._clock_gate.switch(not on)

    # fmt: off
    def _map_ports(self) -> None:
        pio = self.machine.pio
        #       base       ports  window                  name         kind
        pio.map(PIC0,          2, self.pic.primary,       "pic0",      "irqchip")
        pio.map(PIC1,          2, self.pic.secondary,     "pic1",      "irqchip")
        pio.map(ELCR,          2, self.pic.elcr,          "elcr",      "irqchip")
        pio.map(PIT,           4, self.pit,               "pit")
        pio.map(PS2_DATA,      1, self.ps2.data,          "ps2")
        pio.map(CONTROL_B,     1, self.control_b,         "port61")
        pio.map(PS2_COMMAND,   1, self.ps2.command,       "ps2")
        pio.map(CMOS,          2, self.rtc,               "rtc")
        pio.map(POST,          1, self.post,              "post",      "marker")
        pio.map(CONTROL_A,     1, self.control_a,         "port92")
        pio.map(COM1,          8, self.com1,              "com1")
        pio.map(VGA,   VGA_PORTS, self.vga,               "vga")
        pio.map(FW_CFG,        2, self.fw_cfg,            "fw_cfg",    wide=True)
        pio.map(FW_CFG + DMA_OFFSET, DMA_PORTS, self.fw_cfg.dma, "fw_cfg", wide=True)
        pio.map(PM_BASE, self.pm.size, self.pm,           "acpi-pm",   wide=True)
        pio.map(CONFIG_PORT, CONFIG_PORTS, self.pci,      "pci",       wide=True)
        pio.map(0x22,          2, Absent(2, "imcr"),      "imcr")  # only on old boards
        pio.map(0xED,          1, Absent(1, "delay"),     "delay")  # written by drivers to pass time
        for number, base in ((2, 0x2F8), (3, 0x3E8), (4, 0x2E8)):  # probed for UARTs
            pio.map(base,      8, Absent(8, "absent"),    f"com{number}")

    # fmt: on

    def _make_fw_cfg(self) -> FwCfg:
        """What firmware and test kernels are told."""
        memory, config = self.machine.memory, self._config
        items = standard_items(memory.size, 1, graphics=config.graphics, boot_menu=config.boot_menu)
        if self._has_firmware:
            from emu.boards.bios import boot_rom_files, firmware_files  # noqa: PLC0415 - a kernel boots without

            hardware = hardware_of(self._addresses(), LEVEL_IRQS)
            files = firmware_files(memory, hardware, vga=config.vga and config.graphics)
            if config.kernel is not None:
                items |= kernel_items(config.kernel, config.append, config.initrd, memory.ranges[0].size)
                files |= boot_rom_files(config.kernel)
        else:
            files = {"etc/e820": e820_file([(piece.gpa, piece.size) for piece in memory.ranges])}
        return FwCfg(items, files, memory)

    def _addresses(self) -> Addresses:
        return ADDRESSES._replace(hpet=HPET if self._config.hpet else 0)

    def make_boot(self) -> Callable[[], StartState]:
        """What puts the first program into memory, at power-on and after each reset. Raises ConfigError."""
        machine, config = self.machine, self._config
        if not self._has_firmware:
            loader = Loader(machine.memory, config, self.pci, self.pic, self.lapic, self._addresses())
            loader.on_linux = self._check_initrd

            def load() -> StartState:
                self.ps2.write_command(WRITE_COMMAND_BYTE)
                self.ps2.write_data(KEYBOARD_ON)
                machine.msrs.memory_types.set_up((DEVICES, HIGH_WINDOW))
                self.shadow_ram.leave_as_firmware()
                state = loader.load()
                if self.initrd_check is not None:
                    self.initrd_check.start()
                return state

            return load
        from emu.boards.bios import Bios, fill_cmos, read_firmware  # noqa: PLC0415 - as above

        fill_cmos(self.rtc, config.boot_order, [self.disks.ide(slot) for slot in range(4)])
        return Bios(machine, read_firmware(config.bios)).load

    def _check_initrd(self, initrd: FilePath) -> None:
        """Look at Linux' initial RAM disk: at its first bytes now, at the rest while the guest runs."""
        from emu.boards.initrd_check import InitrdCheck  # noqa: PLC0415 - many kernels have none

        if self.initrd_check is None:
            self.initrd_check = InitrdCheck(initrd, self.machine.vcpu.fail)
            self.machine.on_close.append(self.initrd_check.close)

    def check_inputs(self) -> None:
        """Wait for what is still looked at beside the guest; after the run. Raises ConfigError."""
        if self.initrd_check is not None:
            self.initrd_check.finish()

    def _add_disks(self) -> None:
        self.disks = Disks(self.machine, self._config)
        self.ide = Piix3Ide(
            self.machine.memory,
            irqs=[self._irq(irq) for _, _, irq in IDE],
            seats=[self.disks.seat(slot) for slot in range(2 * len(IDE))],
        )
        self.pci.add(self.ide.function, ISA_BRIDGE_SLOT, IDE_FUNCTION)
        for i, (channel, (command, control, _)) in enumerate(zip(self.ide.channels, IDE, strict=True)):
            self.machine.pio.map(command, 8, channel.command, f"ide{i}", wide=True)
            self.machine.pio.map(control, channel.control.size, channel.control, f"ide{i}-control")
            self.machine.ledger.add_costs(channel.costs)
        for costs in self.disks.ide_costs():
            self.machine.ledger.add_costs(costs)
        self.virtio_disks: list[VirtioDevice] = []
        for disk in self.disks.virtio():
            self._add_virtio(disk)

    def _add_virtio(self, disk: Disk) -> None:
        from emu.boards.virtio import add_virtio_blk  # noqa: PLC0415 - a tiny guest has no virtio device

        self.virtio_disks.append(add_virtio_blk(self.machine, self.pci, self.lapic, disk))

    def _more_virtio(self) -> "VirtioMore":
        from emu.boards import virtio_more  # noqa: PLC0415 - as above

        return virtio_more.VirtioMore(self.machine, self.pci, self.lapic, self._config)

    def _nets(self) -> "Nets":
        from emu.boards import net  # noqa: PLC0415 - as above

        boots = self._has_firmware and "n" in self._config.boot_order
        return net.Nets(self.machine, self.pci, self.lapic, self._config, boots=boots)

    def _vhost_user(self) -> "VhostUserDevices":
        from emu.boards import vhost_user  # noqa: PLC0415 - as above

        return vhost_user.VhostUserDevices(self.machine, self.pci, self.lapic, self._config)

    def _add_debug_exit(self, device: DeviceConfig) -> None:
        base = int(device.properties.get("iobase", str(DEBUG_EXIT_BASE)), 0)
        size = int(device.properties.get("iosize", str(DEBUG_EXIT_SIZE)), 0)
        try:
            chip = DebugExit(self._debug_exit)
            self.machine.pio.map(base, size, chip, "isa-debug-exit", wide=True)
        except MapError as error:
            raise ConfigError(f"-device isa-debug-exit: {error}; try iobase=0xf4,iosize=4") from None

    def _add_testdev(self) -> None:
        from emu.devices import pc_testdev as testdev  # noqa: PLC0415 - for test kernels only

        lines = {irq: self._irq(irq) for irq in IRQS}

        def drive(irq: int, level: bool) -> None:
            if irq in lines:
                lines[irq].set(level)

        pio = self.machine.pio
        try:
            pio.map(testdev.IOPORT, testdev.PORTS, testdev.PlainBytes(testdev.PORTS), "testdev", wide=True)
            pio.map(testdev.FLUSH, testdev.FLUSH_PORTS, testdev.FlushPage(), "testdev-flush", wide=True)
            pio.map(testdev.IRQ_LINES, testdev.IRQ_PORTS, testdev.IrqLines(drive), "testdev-irq")
        except MapError as error:
            raise ConfigError(f"-device pc-testdev: {error}; give it once") from None
        self.machine.mmio.map(testdev.MEMORY, testdev.PlainBytes(testdev.MEMORY_SIZE), "testdev-memory")

    def screen_text(self) -> str:
        """The text screen's lines, without the blanks at their ends; empty in graphics modes."""
        return self.vga.text(self.machine.memory.view(TEXT_MEMORY, TEXT_SIZE))

    def screen(self) -> TextScreen | None:
        """What the text screen shows, None in graphics modes; any thread."""
        return self.vga.screen(self.machine.memory.view(TEXT_MEMORY, TEXT_SIZE))

    def _debug_exit(self, status: int) -> None:
        self.machine.end(Outcome(OutcomeKind.DEBUG_EXIT, status >> 1))

    def _power_off(self) -> None:
        self.machine.end(Outcome(OutcomeKind.POWER_OFF))

    def reset(self) -> None:
        """RESET#: every chip as after power-on."""
        chips: list[Resettable] = [self.pic, self.ioapic, self.lapic, self.pit, self.ps2, self.com1, self.pm]
        chips += [self.vga, self.fw_cfg, self.legacy, self.keyboard, self.mouse]
        chips += [self.control_a, self.control_b, self.reset_control, self.ide]
        if self.hpet is not None:
            chips.append(self.hpet)
        for chip in chips:
            chip.reset()
        self.pci.reset()


class _Nowhere:
    """The cascade input: no source may drive it."""

    def set(self, level: bool) -> None:
        """Ignore the level."""

    def restore(self, level: bool) -> None:
        """Ignore the level."""


_NOWHERE: Final = _Nowhere()


def build_pc(config: MachineConfig, serial_out: Callable[[bytes], object]) -> Machine:
    """A machine ready to run. `serial_out(data)` gets what the guest sends to COM1.

    Raises ConfigError for everything that the user can mend.
    """
    return assemble_pc(config, serial_out).machine


def assemble_pc(config: MachineConfig, serial_out: Callable[[bytes], object]) -> PcBoard:
    """The same, as the board with its chips at hand."""
    machine = Machine(config.ram_bytes)
    try:
        machine.no_reboot = config.no_reboot
        exits = config.exits
        machine.observe(
            by_function=exits is not None and exits.by_function,
            timed=exits is not None and exits.timed,
            trace=config.trace is not None,
        )
        machine.symbols_of = config.kernel
        board = PcBoard(machine, config, serial_out)
        board.post.on_code = machine.post_code
        machine.ledger.add_source(machine)
        machine.on_reset.append(board.reset)
        feed = SerialFeed(machine.vcpu, board.com1)
        machine.serial_input, machine.serial_room = feed.write, feed.room
        machine.screen_text, machine.type_text = board.screen_text, board.typist.type_text
        machine.boot = board.make_boot()
        machine.power_on(board.lapic, config.engine)
    except BaseException:
        machine.close()
        raise
    return board
