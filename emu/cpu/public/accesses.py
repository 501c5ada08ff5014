"""The engine's calls for device accesses: rights, records of what was answered, doorbells; then the bus."""

import contextlib
from collections.abc import Callable

from emu.cpu.engine import EngineHooks, MmioArea
from emu.cpu.intercepted import PREFIXES
from emu.cpu.layout import ES, RAX, RDI
from emu.cpu.msr import MASK64
from emu.cpu.public.bells import Bells
from emu.cpu.public.context import Context
from emu.cpu.public.events import Events
from emu.cpu.public.paging import CpuFault, Paging
from emu.cpu.public.replay import IN, READ, WRITE, Replay
from emu.cpu.public.slices import Slices

_INSB, _INSD = b"\x6c", b"\x6d"


class Ports:
    """IN and OUT, with the check of IOPL and the TSS's bitmap, which the engine leaves out. vCPU thread."""

    def __init__(
        self, context: Context, paging: Paging, events: Events, slices: Slices, replay: Replay
    ) -> None:
        self._context, self._paging, self._events = context, paging, events
        self._slices, self._replay = slices, replay
        self.refused: int | None = None
        """Where an instruction stands that had no right to its port and has ended the slice."""

    def make_read(self, hooks: EngineHooks) -> Callable[[int, int, int, int], int]:
        """The callback for IN and INS."""
        port_read = _recorded(IN, 0, hooks.port_read, self._replay)

        def read(engine: int, port: int, width: int, user: int) -> int:
            if self._may_use(port, width):
                return port_read(engine, port, width, user)
            return self._unchanged(width)

        return read

    def make_write(self, hooks: EngineHooks) -> Callable[[int, int, int, int, int], None]:
        """The callback for OUT and OUTS."""
        port_write = hooks.port_write

        def write(engine: int, port: int, width: int, value: int, user: int) -> None:
            if self._may_use(port, width):
                port_write(engine, port, width, value, user)

        return write

    def _may_use(self, port: int, width: int) -> bool:
        context = self._context
        context.load()
        allowed = self._events.may_use_port(port, width)
        if not allowed:
            self.refused = context.state.rip.value
            self._slices.end()
        return allowed

    def _unchanged(self, width: int) -> int:
        """What IN or INS would leave as it was: the instruction must have no effect."""
        cpu = self._context.state
        code = self._paging.code().lstrip(PREFIXES)
        if code[:1] in (_INSB, _INSD):
            with contextlib.suppress(CpuFault):
                data = self._paging.read(cpu.segment(ES)[1] + cpu.regs[RDI] & MASK64, width)
                return int.from_bytes(data, "little")
        return cpu.regs[RAX] & (1 << 8 * width) - 1


def make_area_read(area: MmioArea, replay: Replay) -> Callable[[int, int, int, int], int]:
    """The callback for loads from an area."""
    return _recorded(READ, area.base, area.read, replay)


def _recorded(
    kind: int, base: int, device_read: Callable[[int, int, int, int], int], replay: Replay
) -> Callable[[int, int, int, int], int]:
    """`device_read`, which is not asked again for what it has given to the instruction that begins anew."""
    add = replay.add

    def read(engine: int, offset: int, width: int, user: int) -> int:
        access = (kind, base + offset, width)
        if replay.answers:
            found = replay.answer(access)
            if found is not None:
                return found
        value = device_read(engine, offset, width, user)
        add((access, value))
        return value

    return read


def make_area_write(
    area: MmioArea, replay: Replay, bells: Bells
) -> Callable[[int, int, int, int, int], None]:
    """The callback for stores to an area."""
    base, area_write, add, ring = area.base, area.write, replay.add, bells.ring

    def write(engine: int, offset: int, width: int, value: int, user: int) -> None:
        access = (WRITE, base + offset, width)
        if replay.answers and replay.answer(access) is not None:
            return
        add((access, 0))
        if not ring(base + offset):
            area_write(engine, offset, width, value, user)

    return write
