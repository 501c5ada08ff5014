"""Random register sequences, one function a chip: each gives the accesses of one run from a `Random`.

They do what a driver might do and more. What would only show a known difference is left out by that
difference's `unsent` and `unseen`, not here; here stand only the rules by which a sequence makes sense.
"""

from collections.abc import Iterator, Sequence
from random import Random

from tests.peers.oracle import Op

PRIMARY, SECONDARY, ELCR, IRQ_LINES = 0x20, 0xA0, 0x4D0, 0x2000
PIT, CONTROL_B, CONTROL_A, CMOS = 0x40, 0x61, 0x92, 0x70
PS2_DATA, PS2_COMMAND, COM1 = 0x60, 0x64, 0x3F8
IOAPIC, HPET, PCI_ADDRESS, PCI_DATA = 0xFEC0_0000, 0xFED0_0000, 0xCF8, 0xCFC
PM, IDE, IDE_CONTROL = 0x600, 0x1F0, 0x3F6
VIRTIO_SLOT = 3
DISK_SECTORS, CHS_SECTORS = 8192, 8 * 16 * 63


def inb(port: int, register: str = "") -> Op:
    return Op("inb", port, 0, register)


def outb(port: int, value: int, register: str = "") -> Op:
    return Op("outb", port, value, register)


def pic_setup(mask: int = 0) -> Iterator[Op]:
    """Both 8259s initialised as a PC does, `mask` in IMR."""
    for port, icw3 in ((PRIMARY, 4), (SECONDARY, 2)):
        yield outb(port, 0x11)
        for value in (0x20 if port == PRIMARY else 0x28, icw3, 0x01, mask):
            yield outb(port + 1, value)


def pic_poll(port: int, register: str = "") -> Iterator[Op]:
    """A poll command, its answer, and the end of the interrupt."""
    yield outb(port, 0x0C)
    yield inb(port, register)
    yield outb(port, 0x20)


def pic(random: Random, steps: int) -> Iterator[Op]:
    """The 8259 pair and ELCR, with interrupt lines that rise and fall."""
    levels = dict.fromkeys((irq for irq in range(16) if irq != 2), 0)
    yield from (outb(IRQ_LINES + irq, 0) for irq in levels)
    yield from pic_setup()
    ports = (PRIMARY, PRIMARY + 1, SECONDARY, SECONDARY + 1, ELCR, ELCR + 1)
    for _ in range(steps):
        kind = random.randrange(10)
        if kind < 4:
            irq = random.choice(list(levels))
            levels[irq] ^= 1
            yield outb(IRQ_LINES + irq, levels[irq])
        elif kind < 7:
            port, value = random.choice(ports), random.randrange(256)
            if port in (PRIMARY, SECONDARY) and random.random() < 0.9:
                value &= ~0x10  # ICW1 now and then
            elif port >= ELCR and random.random() < 0.8:
                continue
            elif port & 1 and random.random() < 0.6:
                value = 0
            yield outb(port, value)
        else:
            yield inb(random.choice(ports))


class PitLatches:
    """What is latched in the three counters: names what a read gives, and reads it before it is dropped."""

    def __init__(self) -> None:
        self.access = [3] * 3
        self.count = [0] * 3  # bytes to read
        self.status = [False] * 3

    def latch(self, counter: int, *, count: bool, status: bool) -> None:
        if count and not self.count[counter]:
            self.count[counter] = 2 if self.access[counter] == 3 else 1
        self.status[counter] |= status

    def read(self, counter: int) -> Op:
        if self.status[counter]:
            self.status[counter] = False
            return inb(PIT + counter, "status")
        self.count[counter] = max(0, self.count[counter] - 1)
        return inb(PIT + counter)

    def drain(self, counter: int) -> Iterator[Op]:
        while self.status[counter] or self.count[counter]:
            yield self.read(counter)


def pit(random: Random, steps: int, modes: Sequence[int] = (0, 3)) -> Iterator[Op]:
    """The 8254 and port 0x61: counters programmed whole, then read, latched and gated at will.

    What is latched is read before a control word comes, and counts are even (see the differences).
    """
    latches = PitLatches()
    for counter in range(3):
        yield from (outb(PIT + 3, counter << 6 | 0x36), outb(PIT + counter, 0x34), outb(PIT + counter, 0x12))
    for _ in range(steps):
        kind, counter = random.random(), random.randrange(3)
        if kind < 0.15:
            access, mode, bcd = random.randrange(1, 4), random.choice(modes), random.random() < 0.2
            yield from latches.drain(counter)
            latches.access[counter] = access
            yield outb(PIT + 3, counter << 6 | access << 4 | mode << 1 | bcd, f"control, mode {mode}")
            for _ in range(2 if access == 3 else 1):
                digits = random.randrange(1, 10) << 4 | random.randrange(10)
                value = digits if bcd else random.randrange(2, 256)
                yield outb(PIT + counter, value & 0xFE, "count")
        elif kind < 0.25:
            latches.latch(counter, count=True, status=False)
            yield outb(PIT + 3, counter << 6, "latch")
        elif kind < 0.35:
            command = random.randrange(64)
            for chosen in range(3):
                if command & 2 << chosen:
                    latches.latch(chosen, count=not command & 0x20, status=not command & 0x10)
            yield outb(PIT + 3, 0xC0 | command, "read-back")
        elif kind < 0.45:
            yield outb(CONTROL_B, random.randrange(256))
        elif kind < 0.85:
            yield latches.read(counter)
        else:
            yield inb(random.choice((PIT + 3, CONTROL_B)))


def pit_modes(random: Random, steps: int) -> Iterator[Op]:
    """The same in all modes."""
    return pit(random, steps, tuple(range(6)))


def control(random: Random, steps: int) -> Iterator[Op]:
    """Ports 0x92 and 0xCF9, but for the bits that reset."""
    for _ in range(steps):
        port, unsafe = random.choice(((CONTROL_A, 0x01), (0xCF9, 0x04)))
        yield outb(port, random.randrange(256) & ~unsafe) if random.random() < 0.5 else inb(port)


def uart(random: Random, steps: int) -> Iterator[Op]:
    """COM1, mostly in loopback, and its interrupt as the 8259 polls it."""
    yield from pic_setup(0xEF)
    for offset, value in ((3, 0), (1, 0), (4, 8), (2, 7), (2, 0), (7, 0), (3, 0x80), (0, 12), (1, 0), (3, 3)):
        yield outb(COM1 + offset, value)
    for offset in (0, 5, 6, 2):
        yield inb(COM1 + offset)
    for _ in range(steps):
        kind = random.random()
        if kind < 0.5:
            offset = random.choice((0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7))
            value = random.randrange(256)
            if offset == 3 and random.random() < 0.8:
                value &= ~0x80  # DLAB now and then
            yield outb(COM1 + offset, value)
        elif kind < 0.9:
            yield inb(COM1 + random.randrange(8))
        else:
            yield from pic_poll(PRIMARY)


def cmos(index: int, value: int | None = None) -> Iterator[Op]:
    """Read or write one byte of the RTC."""
    register = f"cmos {index:#04x}"
    yield outb(CMOS, index)
    yield inb(CMOS + 1, register) if value is None else outb(CMOS + 1, value, register)


# Time registers and their ranges: days that each month has, years that fit 64 bits of nanoseconds.
RTC_RANGES = {
    0: (0, 60),
    2: (0, 60),
    4: (0, 24),
    9: (0, 70),
    0x32: (20, 22),
    0x37: (20, 22),
    7: (1, 29),
    8: (1, 13),
}


def rtc(random: Random, steps: int) -> Iterator[Op]:
    """The MC146818: time, alarms and control registers; values that a calendar has, in register B's format.

    The format changes only while SET holds the clock, and the time is written anew before it runs again.
    """
    register_b = 0x02
    indices = (0, 2, 4, 6, 7, 8, 9, 0x32, 0x37, 0x0A, 0x0B, 0x0B, 0x0C, 0x0D, 1, 3, 5, 0x0F, 0x40)
    for _ in range(steps):
        index = random.choice(indices)
        if random.random() < 0.6:
            yield from cmos(index)
            continue
        value = random.randrange(256)
        if index in RTC_RANGES:
            value = _calendar_value(random, index, register_b)
        elif index == 6:
            value = random.randrange(1, 8)
        elif index == 0x0A:
            value = random.choice((0x26, 0x26, 0x60, 0x70, 0x20, 0x2F))
        elif index == 0x0B:
            new_format = random.random() < 0.1
            register_b = value | 0x80 if new_format else value & ~0x06 | register_b & 0x06
            if new_format:
                yield from cmos(index, register_b)
                for time in RTC_RANGES:
                    yield from cmos(time, _calendar_value(random, time, register_b))
                continue
        yield from cmos(index, value if index != 0x0B else register_b)


def _calendar_value(random: Random, index: int, register_b: int) -> int:
    number, afternoon = random.randrange(*RTC_RANGES[index]), 0
    if index == 4 and not register_b & 0x02:
        number, afternoon = random.randrange(1, 13), random.choice((0, 0x80))
    return (number if register_b & 0x04 else number // 10 << 4 | number % 10) | afternoon


PS2_COMMANDS = (
    *(0x20, 0x60, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAD, 0xAE, 0xC0, 0xD0, 0xD1, 0xD2, 0xD3, 0xDD, 0xDF),
    *(0xFF, 0xF1, 0x00, 0x99),
)


def ps2(random: Random, steps: int) -> Iterator[Op]:
    """The 8042's own commands; nothing is sent to a device. Its interrupts as the 8259s poll them."""
    yield from pic_setup()
    yield from pic_poll(PRIMARY)
    for _ in range(steps):
        kind = random.random()
        if kind < 0.4:
            command = random.choice(PS2_COMMANDS)
            yield outb(PS2_COMMAND, command)
            if command in (0x60, 0xD1, 0xD2, 0xD3):
                value = random.randrange(256) | (0x01 if command == 0xD1 else 0)  # bit 0 resets the CPU
                yield outb(PS2_DATA, value, f"data of {command:#x}")
        elif kind < 0.9:
            yield inb(random.choice((PS2_DATA, PS2_COMMAND, PS2_COMMAND, PRIMARY, SECONDARY)))
        else:
            yield from pic_poll(random.choice((PRIMARY, SECONDARY)))


def ioapic(random: Random, steps: int) -> Iterator[Op]:
    """The I/O APIC's window, with interrupt lines that rise and fall.

    A pin turns from edges to levels or back only while it is low (see the differences).
    """
    levels = dict.fromkeys((3, 5, 6, 7, 9, 10, 11, 13, 15), 0)
    entries: dict[int, int] = {}
    for _ in range(steps):
        kind = random.random()
        select = random.choice((0, 1, 2, *range(0x10, 0x40), 0x40, 0xFF))
        if kind < 0.2:
            irq = random.choice(list(levels))
            levels[irq] ^= 1
            yield outb(IRQ_LINES + irq, levels[irq])
        elif kind < 0.25:
            yield Op("writel", IOAPIC + 0x40, random.randrange(0x2F, 0x35), "EOIR")
        elif kind < 0.3:
            yield Op("readl", IOAPIC, 0, "IOREGSEL")
        elif kind < 0.65:
            entry, pin = _entry(random), (select - 0x10) >> 1
            if _ioapic_name(select) == "entry, low" and (entry ^ entries.get(pin, 0)) & 0x8000:
                entries[pin] = entry
                if levels.get(pin):
                    levels[pin] = 0
                    yield outb(IRQ_LINES + pin, 0)
            yield Op("writel", IOAPIC, select, "IOREGSEL")
            yield Op("writel", IOAPIC + 0x10, entry, _ioapic_name(select))
        else:
            yield Op("writel", IOAPIC, select, "IOREGSEL")
            yield Op("readl", IOAPIC + 0x10, 0, _ioapic_name(select))


def _entry(random: Random) -> int:
    """A redirection entry's half: vectors few, so that EOIR meets some; modes that reach no CPU's pins."""
    value = random.randrange(1 << 32) & ~0xFF | random.randrange(0x30, 0x34)
    return value if value & 0x1_0000 else value & ~0x600


def _ioapic_name(select: int) -> str:
    if 0x10 <= select < 0x40:
        return "entry, high" if select & 1 else "entry, low"
    return f"ioapic {select:#04x}"


HPET_TIMER_NAMES = {0x00: "conf", 0x08: "comparator", 0x10: "fsb"}


def hpet_name(offset: int) -> str:
    half = "high" if offset & 4 else "low"
    if offset >= 0x100:
        return f"hpet timer {HPET_TIMER_NAMES.get(offset - 0x100 & 0x18, 'reserved')}, {half}"
    return f"hpet {offset & ~7:#04x}, {half}"


def hpet(random: Random, steps: int) -> Iterator[Op]:
    """The event timer: all of its registers at power-on, then in any order, halted and running.

    Nothing is written far into the counter's upper half: QEMU counts in ns there, and they overflow.
    """
    offsets = [
        *range(0, 0x28, 4),
        0xF0,
        0xF4,
        *(0x100 + 0x20 * n + at for n in range(3) for at in range(0, 24, 4)),
    ]
    for offset in offsets:
        yield Op("readl", HPET + offset, 0, hpet_name(offset))
    narrow = [False] * 3  # timers in 32-bit mode
    for _ in range(steps):
        offset = random.choice(offsets)
        timer, register = divmod(offset - 0x100, 0x20)
        if random.random() < 0.5:
            yield Op("readl", HPET + offset, 0, hpet_name(offset))
            continue
        value = random.choice((0, 1, 2, 3, random.randrange(1 << 16), random.randrange(1 << 32)))
        if offset == 0xF4:
            value &= 0xFFFF
        name = hpet_name(offset)
        if timer >= 0 and register == 0:
            narrow[timer] = bool(value & 0x100)
        elif timer >= 0 and register == 0x0C and narrow[timer]:
            name += " of a 32-bit timer"
        yield Op("writel", HPET + offset, value, name)


def pci_name(device: int, function: int, offset: int) -> str:
    return f"pci {device:02x}.{function:x} {offset:#04x}"


def pci_read(device: int, function: int, offset: int, width: str = "l") -> Iterator[Op]:
    yield Op("outl", PCI_ADDRESS, 1 << 31 | device << 11 | function << 8 | offset & 0xFC)
    yield Op(f"in{width}", PCI_DATA + (offset & 3), 0, pci_name(device, function, offset))


def pci_write(device: int, function: int, offset: int, value: int, width: str = "l") -> Iterator[Op]:
    yield Op("outl", PCI_ADDRESS, 1 << 31 | device << 11 | function << 8 | offset & 0xFC)
    yield Op(f"out{width}", PCI_DATA + (offset & 3), value, pci_name(device, function, offset))


HOST_BRIDGE_BYTES = (*range(0x10), *range(0x2C, 0x40), *range(0x59, 0x60), 0x72)
ISA_BRIDGE_BYTES = (*range(0x10), *range(0x2C, 0x40), *range(0x60, 0x64))
VIRTIO_BYTES = tuple(range(0x40))


def pci(random: Random, steps: int) -> Iterator[Op]:
    """Configuration space of host bridge, ISA bridge and a virtio disk, by bytes; BARs by double words.

    First all of it as at power-on, and who is on the bus.
    """
    for device in range(32):
        for function in range(8):
            yield from pci_read(device, function, 0)
    for device, size in ((0, 256), (1, 256), (VIRTIO_SLOT, 0x40)):  # capabilities stand where a device likes
        for offset in range(size):
            yield from pci_read(device, 0, offset, "b")
    for _ in range(steps):
        device, offsets = random.choice(
            ((0, HOST_BRIDGE_BYTES), (1, ISA_BRIDGE_BYTES), (VIRTIO_SLOT, VIRTIO_BYTES))
        )
        offset = random.choice(offsets)
        if 0x10 <= offset < 0x28:
            value = random.choice((0xFFFF_FFFF, 0, random.randrange(1 << 32)))
            yield from pci_write(device, 0, offset & ~3, value)
            yield from pci_read(device, 0, offset & ~3)
        elif random.random() < 0.5:
            yield from pci_write(device, 0, offset, random.randrange(256), "b")
        else:
            yield from pci_read(device, 0, offset, "b")
    yield Op("outl", PCI_ADDRESS, random.randrange(1 << 32) & ~(1 << 31))
    yield Op("inl", PCI_ADDRESS)
    yield Op("inl", PCI_DATA)


def acpi_pm(random: Random, steps: int) -> Iterator[Op]:
    """PM1 event and control registers, and the timer; SLP_EN is never set.

    First, what firmware does: PMBASE, decoding and PMREGMISC of function 1.3, and the status clear.
    """
    for offset, value in ((0x40, PM | 1), (0x04, 1), (0x80, 1)):
        yield from pci_write(1, 3, offset, value)
    yield Op("outw", PM, 0xFFFF)
    for _ in range(steps):
        offset = random.choice((0, 2, 4))
        if random.random() < 0.5:
            yield Op("outw", PM + offset, random.randrange(1 << 16) & ~(0x2000 if offset == 4 else 0))
        elif random.random() < 0.9:
            yield Op("inw", PM + offset)
        else:
            yield Op("inl", PM + 8)


IDE_NAMES = ("data", "error", "count", "lba low", "lba mid", "lba high", "device", "status")
IDE_PLAIN = (0x10, 0x70, 0xC6, 0xE7, 0xEA, 0xEF, 0xE5, 0xE0, 0xE1, 0xF8, 0x27, 0x90, 0x00, 0xFF)
IDE_FEATURES = (0x02, 0x03, 0x55, 0x66, 0x82, 0xAA, 0xCC, 0x00, 0x11, 0xFF)
IDE_READS = {0x20: 1, 0x24: 1, 0xC4: 4, 0x29: 4}  # opcode: sectors a block, with multiple mode at 4
IDE_WRITES = {0x30: 1, 0x34: 1, 0xC5: 4, 0x39: 4}
SETTLE = Op("settle", IDE_CONTROL)


def ide_in(offset: int) -> Op:
    return inb(IDE + offset, f"ide {IDE_NAMES[offset]}")


def ide_out(offset: int, value: int) -> Op:
    name = ("data", "features")[offset] if offset < 2 else "command" if offset == 7 else IDE_NAMES[offset]
    return outb(IDE + offset, value, f"ide {name}")


def ide_command(opcode: int, suffix: str = "") -> Iterator[Op]:
    """A command, waited for, and what it left in the registers."""
    yield ide_out(7, opcode)
    yield SETTLE
    yield inb(IDE_CONTROL, "ide alternate status")
    yield from ide_registers(suffix)


def ide_registers(suffix: str = "") -> Iterator[Op]:
    """All registers, status last."""
    yield from (inb(IDE + offset, f"ide {IDE_NAMES[offset]}{suffix}") for offset in range(1, 7))
    yield ide_in(7)


def ide_address(random: Random, *, extended: bool, lba: int, count: int) -> Iterator[Op]:
    """The registers for `count` sectors from `lba` on, in LBA or, if they need not be extended, CHS."""
    if extended:
        for offset, shift in ((3, 24), (4, 32), (5, 40)):
            yield ide_out(offset, lba >> shift & 0xFF)
        yield ide_out(2, count >> 8)
        device = 0xE0
    elif lba > CHS_SECTORS - 8 or random.random() < 0.5:
        device = 0xE0 | lba >> 24
    else:
        track, sector = divmod(lba, 63)
        cylinder, head = divmod(track, 16)
        lba, device = cylinder << 8 | (sector + 1), 0xA0 | head
    yield ide_out(2, count & 0xFF)
    for offset, shift in ((3, 0), (4, 8), (5, 16)):
        yield ide_out(offset, lba >> shift & 0xFF)
    yield ide_out(6, device)


def ide_words(random: Random, count: int, data: bytes | None) -> Iterator[Op]:
    """`count` words through the data port by 16 or 32 bits; `data` is written where it is given."""
    width = random.choice((2, 4))
    command = ("out" if data is not None else "in") + ("w" if width == 2 else "l")
    for at in range(0, 2 * count, width):
        value = 0 if data is None else int.from_bytes(data[at : at + width], "little")
        yield Op(command, IDE, value, "ide data")


def ide_transfer(random: Random, opcode: int, *, write: bool) -> Iterator[Op]:
    """One read or write from registers to last word, or a read that starts past the disk's end."""
    block, extended = (IDE_WRITES if write else IDE_READS)[opcode], opcode in (0x24, 0x29, 0x34, 0x39)
    count = random.randrange(1, 6)
    fits = write or random.random() < 0.9
    lba = random.randrange(DISK_SECTORS - 8) if fits else DISK_SECTORS + random.randrange(8)
    yield from ide_address(random, extended=extended, lba=lba, count=count)
    yield from ide_command(opcode, " under way" if fits else " past the end")
    if fits:
        for at in range(0, count, block):
            words = 256 * min(block, count - at)
            yield from ide_words(random, words, random.randbytes(2 * words) if write else None)
            yield SETTLE
            yield inb(IDE_CONTROL, "ide alternate status")
        yield from ide_registers(" afterwards")
    else:
        yield from ide_command(0xE5)  # CHECK POWER MODE: the error is over


def ide_identify(random: Random) -> Iterator[Op]:
    """IDENTIFY DEVICE, each word by its number."""
    yield ide_out(6, 0xA0)
    yield from ide_command(0xEC, " under way")
    yield from (Op("inw", IDE, 0, f"identify {number}") for number in range(256))
    yield from ide_registers()


def ide_reset() -> Iterator[Op]:
    """A software reset, the signature it leaves, and the 8259 without what it may have brought.

    Device 0 is selected before, and the registers are written anew after it (see the differences).
    """
    yield ide_out(6, 0xA0)
    yield outb(IDE_CONTROL, 0x04, "ide control")
    yield SETTLE
    yield outb(IDE_CONTROL, 0x00, "ide control")
    yield SETTLE
    yield from ide_registers()
    yield from pic_poll(SECONDARY, "poll after a reset")
    yield from ide_plain()


def ide_plain() -> Iterator[Op]:
    """The plain registers of both drives written anew, with the bytes that HOB shows."""
    yield from (ide_out(offset, 0) for offset in (*range(1, 6), *range(1, 6)))


def ide(random: Random, steps: int) -> Iterator[Op]:
    """A drive as master on the first channel, nobody beside it; its interrupt as the 8259 polls it."""
    yield from pic_setup()
    yield from pic_poll(SECONDARY)
    yield from ide_identify(random)
    for _ in range(steps // 20):
        kind = random.random()
        yield from ide_out_some(random)
        if kind < 0.2:
            control = random.choice((0x00, 0x02, 0x08))
            yield outb(IDE_CONTROL, control | 0x80, "ide control")
            yield from (inb(IDE + offset, f"ide {IDE_NAMES[offset]} by HOB") for offset in range(1, 6))
            yield outb(IDE_CONTROL, control, "ide control")
        elif kind < 0.3:
            yield ide_out(6, random.randrange(256))
            yield from (ide_in(random.randrange(1, 8)) for _ in range(4))
        elif kind < 0.5:
            opcode = random.choice(IDE_PLAIN)
            yield ide_out(6, 0xE0 if opcode in (0x27, 0xF8) else random.choice((0xA0, 0xE0)))
            if opcode == 0xEF:  # SET FEATURES
                yield ide_out(1, random.choice(IDE_FEATURES))
                yield ide_out(2, random.choice((0, 1, 8, 12)))
            yield from ide_command(opcode)
            if opcode == 0x90:  # EXECUTE DEVICE DIAGNOSTIC
                yield from ide_plain()
        elif kind < 0.55:
            yield from ide_identify(random)
        elif kind < 0.6:
            yield from ide_reset()
        elif kind < 0.7:
            yield from pic_poll(SECONDARY)
        else:
            yield ide_out(6, 0xA0)
            yield ide_out(2, 4)
            yield from ide_command(0xC6)  # SET MULTIPLE MODE
            write = random.random() < 0.4
            yield from ide_transfer(
                random, random.choice(list(IDE_WRITES if write else IDE_READS)), write=write
            )


def ide_out_some(random: Random) -> Iterator[Op]:
    """Bytes in any of the plain registers, and reads of all."""
    for _ in range(random.randrange(4)):
        yield ide_out(random.randrange(1, 6), random.randrange(256))
    yield from (ide_in(random.randrange(1, 8)) for _ in range(random.randrange(4)))
