"""What our chips and QEMU's do not do alike, each with its reason: the one table of it."""

from typing import Final

from tests.peers.oracle import Difference

PIIX3_UNUSED: Final = (0x4C, 0x4E, 0x69, 0x70, 0x76, 0x77, 0x78, 0xA0, 0xA8)
IDENTIFY_NAMES: Final = (*range(10, 20), *range(23, 47))
IDENTIFY_RETIRED: Final = (4, 5, 20, 21, 22, 48, 52)
IDENTIFY_DMA: Final = (49, 50, 53, 62, 63, 65, 66, 69, 80, 81, 82, 85, 88, 106, 169)

KNOWN: Final[tuple[Difference, ...]] = (
    Difference(
        chip="pic",
        what="ICW1.LTIM makes all inputs level triggered",
        why="8259A datasheet, ICW1 bit 3; QEMU 7.2 says `level sensitive irq not supported` and goes on",
        script="outb 0x20 0x19; outb 0x21 0x20; outb 0x21 4; outb 0x21 1; outb 0x2003 1; outb 0x2003 "
        "0; inb 0x20",
        ours=(0x00,),
        theirs=(0x08,),
        unsent=(("0x20", 0x18, 0x18), ("0xa0", 0x18, 0x18)),
    ),
    Difference(
        chip="pit",
        what="port 0x61's refresh bit follows time",
        why="82371SB, NMISC bit 4: it toggles with each refresh cycle, every 15.085 us; QEMU's "
        "with each read",
        script="inb 0x61; inb 0x61",
        ours=(0x20, 0x20),
        theirs=(0x30, 0x20),
        unseen={"0x61": 0x10},
    ),
    Difference(
        chip="pit",
        what="port 0x61 keeps the two NMI masks",
        why="82371SB, NMISC bits 3 and 2 can be written and read; QEMU's read as zeros",
        script="outb 0x61 0x0c; inb 0x61",
        ours=(0x2C,),
        theirs=(0x30,),
        unseen={"0x61": 0x0C},
    ),
    Difference(
        chip="pit",
        what="a control word drops a latched count and status",
        why="8254 datasheet, counter latch command: held until read or until the counter is reprogrammed",
        script="outb 0x43 0x34; outb 0x40 0x10; outb 0x40 0; outb 0x43 0xe2; outb 0x43 0x14; outb "
        "0x40 0x20; inb 0x40",
        ours=(0x20,),
        theirs=(0x34,),
    ),
    Difference(
        chip="pit",
        what="modes 6 and 7 are modes 2 and 3",
        why="8254 datasheet, control word format: bit 2 of M is `don't care` there; QEMU keeps it "
        "and counts as mode 0",
        script="outb 0x43 0x5e; outb 0x41 0x10; outb 0x43 0xe4; inb 0x41",
        ours=(0x96,),
        theirs=(0x1E,),
    ),
    Difference(
        chip="pit",
        what="before it is programmed a counter takes and gives both bytes",
        why="8254 datasheet: undefined at power-on; QEMU's has no access mode, shown in the status",
        script="outb 0x43 0xe4; inb 0x41",
        ours=(0xB6,),
        theirs=(0x86,),
    ),
    Difference(
        chip="pit",
        what="an odd count in mode 3 starts from the even number below it",
        why="8254 datasheet, mode 3, odd counts: the initial count minus one is loaded; QEMU "
        "loads it as it is",
        script="outb 0x43 0x16; outb 0x40 0x55; inb 0x40",
        ours=(0x54,),
        theirs=(0x55,),
    ),
    Difference(
        chip="pit_modes",
        what="OUT of modes 2, 4 and 5 is high but for its pulse",
        why="8254 datasheet, figures of modes 2, 4 and 5; QEMU's is low but for it",
        script="outb 0x43 0x54; outb 0x41 0x10; outb 0x43 0xe4; inb 0x41; "
        "outb 0x43 0x58; outb 0x41 0x10; outb 0x43 0xe4; inb 0x41",
        ours=(0x94, 0x98),
        theirs=(0x14, 0x18),
        unseen={"0x61": 0x20, "status": 0x80},
    ),
    Difference(
        chip="rtc",
        what="years before 1970 keep their seconds",
        why="any year can be set; QEMU's time is signed there, its remainder is off by one second",
        script="outb 0x70 0x32; outb 0x71 0x19; outb 0x70 0x0b; outb 0x71 0x82; outb 0x71 0x02; "
        "outb 0x70 0; inb 0x71",
        ours=(0x21,),
        theirs=(0x22,),
    ),
    Difference(
        chip="uart",
        what="in loopback a change of MCR's outputs sets MSR's delta bits and interrupts",
        why="PC16550D, modem control register: in loopback the modem control interrupts come from "
        "MCR; QEMU sets none",
        script="outb 0x3fc 0x10; inb 0x3fe; outb 0x3fc 0x1f; inb 0x3fe",
        ours=(0x00, 0xFB),
        theirs=(0x00, 0xF0),
        unseen={"0x3fe": 0x0F},
        unsent=(("0x3f9", 0x08, 0x08),),
    ),
    Difference(
        chip="ps2",
        what="the status register's system flag is the command byte's",
        why="IBM: command byte bit 2 is placed in the status register's system flag; QEMU's "
        "follows the self test",
        script="outb 0x64 0x60; outb 0x60 0x04; inb 0x64",
        ours=(0x1C,),
        theirs=(0x18,),
        unseen={"0x64": 0x04},
    ),
    Difference(
        chip="ioapic",
        what="a redirection entry's reserved bits read as zeros",
        why="82093AA 3.2.4: bits 55 to 17 are reserved; QEMU keeps what is written",
        script="writel 0xfec00000 0x11; writel 0xfec00010 0x12345678; readl 0xfec00010",
        ours=(0x1200_0000,),
        theirs=(0x1234_5678,),
        unseen={"entry, high": 0x00FF_FFFF, "entry, low": 0xFFFE_0000},
    ),
    Difference(
        chip="ioapic",
        what="EOIR's upper bits mean nothing",
        why="ICH datasheet: EOIR bits 31 to 8 are reserved; QEMU compares all 32 with the vector",
        script="writel 0xfec00000 0x1a; writel 0xfec00010 0x8031; outb 0x2005 1; "
        "writel 0xfec00000 0x1a; writel 0xfec00010 0x18031; writel 0xfec00040 0x131; readl 0xfec00010",
        ours=(0x1_8031,),
        theirs=(0x1_C031,),
    ),
    Difference(
        chip="ioapic",
        what="a pin that is high when its entry turns level triggered asks at once",
        why="82093AA 3.2.4: a level is what the pin shows; QEMU does not keep the level of a masked edge",
        script="outb 0x2005 1; writel 0xfec00000 0x1a; writel 0xfec00010 0x8031; readl 0xfec00010",
        ours=(0xC031,),
        theirs=(0x8031,),
    ),
    Difference(
        chip="lapic",
        what="the local APIC's registers",
        why="qtest's accesses come from no CPU, so QEMU's local APIC answers none of them: not compared here",
        script="readl 0xfee00030",
        ours=(0x0005_0014,),
        theirs=(0,),
    ),
    Difference(
        chip="acpi_pm",
        what="TMR_STS is clear at power-on",
        why="ACPI 4.8.3.1.1: it is set when the timer's highest bit changes; QEMU's is set at time 0",
        script="outl 0xcf8 0x80000b40; outl 0xcfc 0x601; outl 0xcf8 0x80000b04; outl 0xcfc 1; "
        "outl 0xcf8 0x80000b80; outl 0xcfc 1; inw 0x600",
        ours=(0,),
        theirs=(1,),
    ),
    Difference(
        chip="acpi_pm",
        what="the PM registers are at 0x600 from the start",
        why="no firmware maps them here; QEMU's are there once function 1.3's PMBASE and PMREGMISC say so",
        script="inw 0x600",
        ours=(0,),
        theirs=(0xFFFF,),
    ),
    Difference(
        chip="pci",
        what="the PIIX has no IDE and no power management function",
        why="disks are at their legacy ports and the PM registers at a fixed place: nothing looks "
        "for functions",
        script="outl 0xcf8 0x80000900; inl 0xcfc; outl 0xcf8 0x80000b00; inl 0xcfc",
        ours=(0xFFFF_FFFF, 0xFFFF_FFFF),
        theirs=(0x7010_8086, 0x7113_8086),
        unseen={"pci 01.1 0x00": 0xFFFF_FFFF, "pci 01.3 0x00": 0xFFFF_FFFF},
    ),
    Difference(
        chip="pci",
        what="the bridges' COMMAND has its decoding bits hard-wired",
        why="82441FX and 82371SB, PCICMD: bits 2 and 1 (and 0) read as ones; QEMU's start at 0 "
        "and can be written",
        script="outl 0xcf8 0x80000004; inw 0xcfc; outl 0xcf8 0x80000804; inw 0xcfc",
        ours=(0x0006, 0x0007),
        theirs=(0x0000, 0x0000),
        unseen={"pci 00.0 0x04": 0x07, "pci 01.0 0x04": 0x07},
    ),
    Difference(
        chip="pci",
        what="the bridges' COMMAND has no interrupt disable bit",
        why="82441FX and 82371SB are PCI 2.1 parts, where bit 10 is reserved; QEMU has it everywhere",
        script="outl 0xcf8 0x80000004; outb 0xcfd 0x04; inb 0xcfd; outl 0xcf8 0x80000804; outb 0xcfd "
        "0x04; inb 0xcfd",
        ours=(0x00, 0x00),
        theirs=(0x04, 0x04),
        unseen={"pci 00.0 0x05": 0x04, "pci 01.0 0x05": 0x04},
    ),
    Difference(
        chip="pci",
        what="the host bridge's STATUS says medium DEVSEL and fast back-to-back",
        why="82441FX: PCISTS is 0280h; QEMU's is 0",
        script="outl 0xcf8 0x80000004; inw 0xcfe",
        ours=(0x0280,),
        theirs=(0x0000,),
        unseen={"pci 00.0 0x06": 0x80, "pci 00.0 0x07": 0x02},
    ),
    Difference(
        chip="pci",
        what="PIRQRC's and SMRAM's reserved bits read as zeros",
        why="82371SB, PIRQRC bits 6 to 4, and 82441FX, SMRAM bit 7; QEMU keeps what is written",
        script="outl 0xcf8 0x80000860; outb 0xcfc 0x7b; inb 0xcfc; outl 0xcf8 0x80000070; outb 0xcfe "
        "0x82; inb 0xcfe",
        ours=(0x0B, 0x02),
        theirs=(0x7B, 0x82),
        unseen={"pci 00.0 0x72": 0x80} | {f"pci 01.0 {pirqrc:#04x}": 0x70 for pirqrc in range(0x60, 0x64)},
    ),
    Difference(
        chip="pci",
        what="timing and chip select registers are not modelled",
        why="82441FX 57h, 82371SB 4Ch to A8h: refresh, X-Bus and DMA timing, which no software here needs",
        script="outl 0xcf8 0x80000054; inb 0xcff; outl 0xcf8 0x8000084c; inb 0xcfc",
        ours=(0x00, 0x00),
        theirs=(0x10, 0x4D),
        unseen={"pci 00.0 0x57": 0xFF} | {f"pci 01.0 {unused:#04x}": 0xFF for unused in PIIX3_UNUSED},
    ),
    Difference(
        chip="pci",
        what="CONFIG_ADDRESS' reserved bits read as zeros",
        why="PCI 3.0, 3.2.2.3.2: bits 30 to 24, 1 and 0 are reserved; QEMU keeps what is written",
        script="outl 0xcf8 0x7f000003; inl 0xcf8",
        ours=(0,),
        theirs=(0x7F00_0003,),
        unseen={"0xcf8": 0x7F00_0003},
    ),
    Difference(
        chip="pci",
        what="virtio's first capability is elsewhere",
        why="a driver follows the list; its order is the device's choice",
        script="outl 0xcf8 0x80001834; inb 0xcfc",
        ours=(0x40,),
        theirs=(0x98,),
        unseen={"pci 03.0 0x34": 0xFF},
    ),
    Difference(
        chip="ide",
        what="IDENTIFY names another drive",
        why="serial number, firmware and model are the maker's",
        script="outb 0x1f6 0xa0; outb 0x1f7 0xec; settle 0x3f6" + "; inw 0x1f0" * 28,
        ours=(0x454D,),
        theirs=(0x5145,),
        unseen={f"identify {word}": 0xFFFF for word in IDENTIFY_NAMES},
    ),
    Difference(
        chip="ide",
        what="IDENTIFY leaves retired words 0",
        why="ATA/ATAPI-6, table 27: words 4, 5, 20 to 22, 48 and 52 are retired or reserved",
        script="outb 0x1f6 0xa0; outb 0x1f7 0xec; settle 0x3f6" + "; inw 0x1f0" * 5,
        ours=(0x0000,),
        theirs=(0x7E00,),
        unseen={f"identify {word}": 0xFFFF for word in IDENTIFY_RETIRED},
    ),
    Difference(
        chip="ide",
        what="IDENTIFY offers no DMA, and says so of its write cache and standards",
        why="the drive is PIO only: the words of DMA modes, their timing and optional features follow",
        script="outb 0x1f6 0xa0; outb 0x1f7 0xec; settle 0x3f6" + "; inw 0x1f0" * 50,
        ours=(0x0A00,),
        theirs=(0x0B00,),
        unseen={f"identify {word}": 0xFFFF for word in IDENTIFY_DMA},
    ),
    Difference(
        chip="ide",
        what="DSC stays set when a command fails",
        why="ATA/ATAPI-6 leaves bit 4 to the command; the heads have settled either way",
        script="outb 0x1f6 0xa0; outb 0x1f7 0xff; inb 0x1f7",
        ours=(0x51,),
        theirs=(0x41,),
        unseen={"ide status": 0x10, "ide alternate status": 0x10},
    ),
    Difference(
        chip="ide",
        what="an address past the end is `not found`",
        why="ATA/ATAPI-6, READ SECTOR(S): IDNF or ABRT; QEMU aborts",
        script="outb 0x1f6 0xe0; outb 0x1f2 1; outb 0x1f3 0; outb 0x1f4 0x20; outb 0x1f5 0; outb 0x1f7 0x20; "
        "settle 0x3f6; inb 0x1f1",
        ours=(0x10,),
        theirs=(0x04,),
        unseen={"ide error past the end": 0x14},
    ),
    Difference(
        chip="ide",
        what="count and address stay as written until a read ends",
        why="ATA/ATAPI-6: they mean nothing while DRQ is set; QEMU's move on with each block",
        script="outb 0x1f6 0xe0; outb 0x1f2 2; outb 0x1f3 9; outb 0x1f4 0; outb 0x1f5 0; outb 0x1f7 0x20; "
        "settle 0x3f6; inb 0x1f2; inb 0x1f3",
        ours=(0x02, 0x09),
        theirs=(0x01, 0x0A),
        unseen={
            f"ide {name} under way": 0xFF for name in ("count", "lba low", "lba mid", "lba high", "device")
        },
    ),
    Difference(
        chip="ide",
        what="SET MULTIPLE MODE outlives a software reset",
        why="ATA/ATAPI-6, 9.2: settings go or stay as SET FEATURES said, which both ignore; QEMU's go to 16",
        script="outb 0x1f6 0xa0; outb 0x1f2 4; outb 0x1f7 0xc6; outb 0x3f6 4; outb 0x3f6 0; settle 0x3f6; "
        "outb 0x1f7 0xec; settle 0x3f6" + "; inw 0x1f0" * 60,
        ours=(0x0104,),
        theirs=(0x0110,),
        unseen={"identify 59": 0xFF},
    ),
    Difference(
        chip="ide",
        what="a software reset makes no interrupt",
        why="ATA/ATAPI-6, 9.2: INTRQ is negated; QEMU ends it as the diagnostic command, which interrupts",
        script="outb 0xa0 0x11; outb 0xa1 0x28; outb 0xa1 2; outb 0xa1 1; outb 0x3f6 4; settle 0x3f6; "
        "outb 0x3f6 0; settle 0x3f6; inb 0xa0",
        ours=(0x00,),
        theirs=(0x40,),
        unseen={"poll after a reset": 0xFF},
    ),
    Difference(
        chip="ide",
        what="READ VERIFY looks at its address",
        why="ATA/ATAPI-6, READ VERIFY SECTOR(S): IDNF past the end; QEMU verifies nothing",
        script="outb 0x1f6 0xe0; outb 0x1f2 1; outb 0x1f5 1; outb 0x1f7 0x40; settle 0x3f6; inb 0x1f1",
        ours=(0x10,),
        theirs=(0x00,),
    ),
    Difference(
        chip="ide",
        what="a software reset keeps the previous bytes that HOB shows",
        why="ATA/ATAPI-6, 9.12 gives the signature one byte a register; QEMU clears the bytes before",
        script="outb 0x1f2 5; outb 0x1f2 6; outb 0x3f6 4; settle 0x3f6; outb 0x3f6 0; settle 0x3f6; "
        "outb 0x3f6 0x80; inb 0x1f2",
        ours=(0x05,),
        theirs=(0x00,),
    ),
    Difference(
        chip="ide",
        what="HOB does not touch the error register",
        why="ATA/ATAPI-6, device control: HOB is for the 48-bit registers; QEMU shows the features before",
        script="outb 0x1f1 5; outb 0x1f1 6; outb 0x3f6 0x80; inb 0x1f1",
        ours=(0x01,),
        theirs=(0x05,),
        unseen={"ide error by HOB": 0xFF},
    ),
    Difference(
        chip="ide",
        what="a transfer leaves 0 in both bytes of the count",
        why="no sector is left to transfer; QEMU leaves the byte before as the driver had it",
        script="outb 0x1f6 0xe0; outb 0x1f2 4; outb 0x1f2 1; outb 0x1f3 0; outb 0x1f4 0; outb 0x1f5 0; "
        "outb 0x1f7 0x20; settle 0x3f6" + "; inl 0x1f0" * 128 + "; settle 0x3f6; outb 0x3f6 0x80; inb 0x1f2",
        ours=(0x00,),
        theirs=(0x04,),
        unseen={"ide count by HOB": 0xFF},
    ),
    Difference(
        chip="ide",
        what="EXECUTE DEVICE DIAGNOSTIC is for both drives",
        why="ATA/ATAPI-6, 9.10: both show their signature; QEMU's is the selected drive's alone",
        script="outb 0x1f3 0x55; outb 0x1f6 0xa0; outb 0x1f7 0x90; outb 0x1f6 0xb0; inb 0x1f3",
        ours=(0x01,),
        theirs=(0x55,),
    ),
    Difference(
        chip="ide",
        what="a software reset selects device 0",
        why="ATA/ATAPI-6, 9.2 and 9.12: the device register is cleared; QEMU's reads so, but device 1 stays",
        script="outb 0x1f6 0xb0; outb 0x3f6 4; settle 0x3f6; outb 0x3f6 0; settle 0x3f6; inb 0x1f7",
        ours=(0x50,),
        theirs=(0x00,),
    ),
    Difference(
        chip="acpi_pm",
        what="SCI_EN is always 1",
        why="ACPI 4.8.3.2.1: so on a machine without SMI; QEMU's is what the firmware's handler wrote",
        script="outl 0xcf8 0x80000b40; outl 0xcfc 0x601; outl 0xcf8 0x80000b04; outl 0xcfc 1; "
        "outl 0xcf8 0x80000b80; outl 0xcfc 1; outw 0x604 0; inw 0x604",
        ours=(0x0001,),
        theirs=(0x0000,),
        unseen={"0x604": 0x0001},
    ),
    Difference(
        chip="ide",
        what="SET FEATURES refuses what IDENTIFY does not offer",
        why="ATA/ATAPI-6: aborted where not supported, as acoustic management is; QEMU takes and forgets it",
        script="outb 0x1f6 0xa0; outb 0x1f1 0x42; outb 0x1f7 0xef; settle 0x3f6; inb 0x1f1",
        ours=(0x04,),
        theirs=(0x00,),
    ),
)
