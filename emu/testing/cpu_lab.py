"""A CPU without a board: RAM, an engine by name, ports and an interrupt controller that tests can see.

Guest code is given as bytes. `CpuLab.long64` runs it in 64-bit mode with page tables, a GDT, an IDT and a TSS
that the guest itself loads; `frame` reads what an exception left on the stack.
"""

import ctypes
import struct
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from emu.bus.memory import GuestMemory
from emu.clock import HostClock
from emu.cpu import cpuid
from emu.cpu.engine import Engine, EngineHooks, MmioArea, RamBlock
from emu.cpu.fast import FastEngine
from emu.cpu.msr import MsrTable
from emu.cpu.public.engine import PublicEngine
from emu.cpu.state import Mode, StartState
from emu.cpu.vcpu import Stop, Vcpu

EngineName = Literal["fast", "public"]
ENGINES: Final[tuple[EngineName, ...]] = ("fast", "public")

RAM: Final = 16 << 20
SETUP, CODE, USER, DATA = 0x500, 0x1000, 0x2000, 0x20_0000
STACK, STACK0, IST1 = 0x5000, 0x5800, 0x6000
TSS, GDT, PML4, IDT, ISR = 0x6800, 0x7000, 0x8000, 0xB000, 0x1_0000
MMIO: Final = 0xE000_0000
MMIO_SIZE: Final = 0x1000_0000
HALT = b"\xf4"
IRETQ = b"\x48\xcf"
CODE_SELECTOR, DATA_SELECTOR, USER_DATA, USER_CODE, TSS_SELECTOR = 0x08, 0x10, 0x23, 0x2B, 0x30
NX: Final = 1 << 63
_GDT: Final = (0, 0x00AF9B00_0000FFFF, 0x00CF9300_0000FFFF, 0x00CF9B00_0000FFFF, 0x00CFF300_0000FFFF,
               0x00AFFB00_0000FFFF)  # fmt: skip


def code(text: str) -> bytes:
    """Hex with comments: each line up to its `;`."""
    return b"".join(bytes.fromhex(line.split(";")[0]) for line in text.splitlines())


def imm32(opcode: str, value: int) -> bytes:
    """An opcode in hex and a 32-bit immediate: `imm32("b9", 5)` is mov ecx, 5."""
    return bytes.fromhex(opcode) + struct.pack("<I", value & 0xFFFF_FFFF)


def imm64(opcode: str, value: int) -> bytes:
    """An opcode in hex and a 64-bit immediate: `imm64("48b8", 5)` is mov rax, 5."""
    return bytes.fromhex(opcode) + struct.pack("<Q", value & (1 << 64) - 1)


def loop(count: int, body: bytes) -> bytes:
    """`body` `count` times, counted in EDI, then HLT."""
    return (
        imm32("bf", count) + body + b"\xff\xcf\x0f\x85" + struct.pack("<i", -(len(body) + 8)) + HALT
    )  # dec edi; jnz body


def wrmsr(index: int, value: int) -> bytes:
    """WRMSR; clobbers RAX, RCX, RDX."""
    return imm32("b9", index) + imm32("b8", value) + imm32("ba", value >> 32) + b"\x0f\x30"


def to_user(rip: int = USER, flags: int = 0x202) -> bytes:
    """IRETQ to CPL 3, with the stack at 0x4000."""
    frame = b"\x6a\x23" + imm32("68", 0x4000) + imm32("68", flags) + b"\x6a\x2b" + imm32("68", rip)
    return frame + IRETQ


class Frame(NamedTuple):
    """What an exception or interrupt pushed in 64-bit mode."""

    error: int | None
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


class Vectors:
    """An interrupt controller that is a queue of vectors."""

    def __init__(self) -> None:
        self.waiting: deque[int] = deque()
        self.poke: Callable[[], None] = _nobody

    def acknowledge(self) -> int:
        """The next vector; asks again while there are more."""
        if not self.waiting:
            return -1
        vector = self.waiting.popleft()
        if self.waiting:
            self.poke()
        return vector

    def pending(self) -> bool:
        """A vector waits."""
        return bool(self.waiting)


class CpuLab(AbstractContextManager["CpuLab"]):
    """One engine with RAM, a vCPU, and ports, MMIO and MSRs that remember.

    `outs`, `stores` list (address, value); `on_out`, `on_in` and `on_store` may be replaced. MMIO reads give
    the low 32 bits of the address.
    """

    def __init__(self, engine: EngineName = "fast", *, foreign_writes: bool = False) -> None:
        self.memory = GuestMemory(RAM)
        self.ram = self.memory.view(0, RAM)
        self.clock = HostClock()
        self.vcpu = vcpu = Vcpu(self.clock)
        self.vectors = Vectors()
        self.msrs = MsrTable()
        self.outs: list[tuple[int, int]] = []
        self.stores: list[tuple[int, int]] = []
        self.on_out: Callable[[int, int], None] = lambda port, value: self.outs.append((port, value))
        self.on_in: Callable[[int], int] = lambda port: port
        self.on_load: Callable[[int, int], int] = lambda at, _width: at & 0xFFFF_FFFF
        self.on_store: Callable[[int, int], None] = lambda at, value: self.stores.append((at, value))
        self.task_priority = 0
        self.tsc_offset = 0
        self.hooks = hooks = EngineHooks(
            port_read=self._port_read,
            port_write=self._port_write,
            areas=self._areas(),
            acknowledge=vcpu.acknowledge,
            cpuid=cpuid.build(lambda: 1_000_000_000),
            read_msr=self.msrs.read,
            write_msr=self.msrs.write,
            read_tpr=lambda: self.task_priority,
            write_tpr=self._write_tpr,
            triple_fault=vcpu.shut_down,
            fail=vcpu.fail,
            foreign_writes=foreign_writes,
        )
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory.map))
        self.blocks = [RamBlock(0, RAM, base)]
        self.fast: FastEngine | None = None
        self.engine: Engine
        if engine == "fast":
            self.engine = self.fast = FastEngine(self.blocks, hooks, vcpu.wake_fd)
        else:
            self.engine = PublicEngine(self.blocks, hooks, vcpu.wake_fd)
        vcpu.attach(self.engine, self.vectors)
        self.vectors.poke = vcpu.poke
        self.memory.on_written = vcpu.memory_written
        self._build_tables()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the engine."""
        self.vcpu.close()
        self.ram.release()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    # ---- the buses ---------------------------------------------------------------------------------

    def _port_read(self, _engine: int, port: int, _width: int, _user: int = 0) -> int:
        try:
            return self.on_in(port)
        except BaseException as error:  # the buses' contract: never unwind into the engine
            self.vcpu.fail(error)
            return 0

    def _port_write(self, _engine: int, port: int, _width: int, value: int, _user: int = 0) -> None:
        try:
            self.on_out(port, value)
        except BaseException as error:  # as above
            self.vcpu.fail(error)

    def _areas(self) -> list[MmioArea]:
        ends = ((RAM, MMIO - RAM), (MMIO, MMIO_SIZE), (MMIO + MMIO_SIZE, (1 << 40) - MMIO - MMIO_SIZE))
        return [MmioArea(base, size, self._load_at(base), self._store_at(base)) for base, size in ends]

    def _load_at(self, base: int) -> Callable[[int, int, int, int], int]:
        def load(_engine: int, offset: int, width: int, _user: int = 0) -> int:
            try:
                return self.on_load(base + offset, width)
            except BaseException as error:  # as above
                self.vcpu.fail(error)
                return 0

        return load

    def _store_at(self, base: int) -> Callable[[int, int, int, int, int], None]:
        def store(_engine: int, offset: int, _width: int, value: int, _user: int = 0) -> None:
            try:
                self.on_store(base + offset, value)
            except BaseException as error:  # as above
                self.vcpu.fail(error)

        return store

    def _write_tpr(self, value: int) -> None:
        self.task_priority = value

    # ---- memory ------------------------------------------------------------------------------------

    def put(self, gpa: int, data: bytes) -> None:
        """Write RAM as a device does."""
        self.ram[gpa : gpa + len(data)] = data
        self.memory.written(gpa, len(data))

    def u64(self, gpa: int) -> int:
        """Eight bytes of RAM."""
        return int.from_bytes(self.ram[gpa : gpa + 8], "little")

    def u32(self, gpa: int) -> int:
        """Four bytes of RAM."""
        return int.from_bytes(self.ram[gpa : gpa + 4], "little")

    def _build_tables(self) -> None:
        """Page tables: 4 GiB flat in 2 MiB pages, user, writable, executable; and the other tables."""
        pages = [PML4 + 0x1007]
        self.put(PML4, struct.pack("<Q", *pages))
        tables = [0xC000 + 0x1000 * i for i in range(4)]
        self.put(PML4 + 0x1000, struct.pack("<4Q", *(at | 7 for at in tables)))
        for i, at in enumerate(tables):
            self.put(at, struct.pack("<512Q", *((512 * i + j) << 21 | 0x87 for j in range(512))))
        self.put(GDT, struct.pack("<6Q", *_GDT))
        self.put(TSS, struct.pack("<IQ", 0, STACK0).ljust(0x68, b"\0"))
        self.put(TSS + 36, struct.pack("<Q", IST1))
        self.put(TSS + 102, struct.pack("<H", 0x68))  # no I/O bitmap
        for vector in range(256):
            self.gate(vector, HALT)
        setup = code("0f011c25 00060000 ; lidt [0x600]") + code("0f011425 10060000 ; lgdt [0x610]")
        setup += code("66b83000 0f00d8 ; mov ax, 0x30; ltr ax") + imm64("48bc", STACK)
        setup += imm64("48b8", CODE) + b"\xff\xe0"
        self.put(SETUP, setup)
        self.put(0x600, struct.pack("<HQ", 0xFFF, IDT))
        self.put(0x610, struct.pack("<HQ", 0x3F, GDT))

    def gate(
        self,
        vector: int,
        handler: bytes | None,
        *,
        dpl: int = 0,
        trap: bool = False,
        ist: int = 0,
        selector: int = CODE_SELECTOR,
        present: bool = True,
    ) -> None:
        """Put a handler's code at the vector's own place and lead the 64-bit gate there."""
        at = ISR + 256 * vector
        if handler is not None:
            self.put(at, handler)
        kind = (0x8F00 if trap else 0x8E00) if present else 0x0E00
        low, high = at & 0xFFFF, at >> 16
        self.put(
            IDT + 16 * vector,
            struct.pack("<HHHHII", low, selector, kind | dpl << 13 | ist, high, 0, 0),
        )

    def map_page(self, linear: int, gpa: int, flags: int = 0x7) -> None:
        """Map one 4 KiB page of the linear range 0x3000_0000 + 2 MiB; needs a TLB flush by the guest."""
        table = 0x1_F000 if linear < 0x3020_0000 else 0
        assert table
        self.put(0xC000 + 8 * (linear >> 21), struct.pack("<Q", table | 7))
        self.put(table + 8 * (linear >> 12 & 511), struct.pack("<Q", gpa | flags))

    # ---- running -----------------------------------------------------------------------------------

    def run(self, mode: Mode, rip: int, cs: int = 0) -> Stop:
        """Start in `mode` at `rip` and run to the end."""
        self.engine.start_at(StartState(mode, rip, cs=cs, cr3=PML4, gdt=GDT))
        return self.vcpu.run()

    def start64(self, program: bytes) -> None:
        """Place a 64-bit program and enter it; `vcpu.run` goes on."""
        self.put(CODE, program)
        tss = TSS & 0xFFFF
        self.put(GDT + TSS_SELECTOR, struct.pack("<HHIQ", 0x67, tss, 0x0000_8900, 0))
        self.engine.start_at(StartState("long64", SETUP, cr3=PML4, gdt=GDT))

    def long64(self, program: bytes) -> Stop:
        """Run a 64-bit program from CODE on, stack at STACK, to the end."""
        self.start64(program)
        return self.vcpu.run()

    def reg(self, name: str) -> int:
        """One register by name."""
        return self.engine.registers()[name]

    def vector(self) -> int:
        """The vector whose handler the guest halted in, -1 for none."""
        vector, offset = divmod(self.reg("rip") - ISR, 256)
        return vector if 0 <= vector < 256 and offset < 128 else -1

    def frame(self, *, error: bool) -> Frame:
        """The exception frame at the top of the stack; `error`: with an error code."""
        rsp = self.reg("rsp")
        words = struct.unpack_from("<6Q", self.ram, rsp)
        return Frame(words[0], *words[1:6]) if error else Frame(None, *words[0:5])


def _nobody() -> None:
    """No CPU listens."""
