"""Guest-physical addresses outside of RAM.

The CPU engine is given areas: one callback pair each, offsets counted from the area's base. An access costs
one look-up of its very address: a guest drives few registers, so each that it has touched is remembered
with its chip and its counter until the map changes.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from emu.bus.types import AccessError, Fault, Region
from emu.bus.window import ONES, FaultLog, Nobody, Unclaimed, Window
from emu.errors import MapError

SHIFT: Final = 12
PAGE: Final = 1 << SHIFT
HOT_BASE: Final = 0xE000_0000
"""From here to 4 GiB chips and PCI windows live: an area of its own, whose offsets are small integers."""
HOT_SIZE: Final = 0x2000_0000
SPACE: Final = 1 << 40
"""The physical address width the CPU reports."""
LARGE: Final = 1 << 20
"""Windows above this size are counted as one register: a slot per register would cost too much."""
REMEMBERED: Final = 4096
"""Addresses kept per area and direction; a guest that wanders starts them anew."""

ReadAt = Callable[[int, int, int, int], int]
"""(engine, offset in the area, width, user) -> value. As for a port (`ReadPort`)."""
WriteAt = Callable[[int, int, int, int, int], None]
"""(engine, offset in the area, width, value, user)."""
Reader = tuple[list[int], int, Callable[[int, int], int], int]
"""Counters and which of them, the chip's `read` and the offset for it."""
Writer = tuple[list[int], int, Callable[[int, int, int], None], int]
"""The same of a write."""


class Area(NamedTuple):
    """One stretch of guest-physical space, `size` bytes from `base` on, that the engine hands over."""

    base: int
    size: int
    read: ReadAt
    write: WriteAt


class Place:
    """A window and its counters: one slot per 32-bit register."""

    __slots__ = ("reads", "window", "writes")

    def __init__(self, window: Window) -> None:
        self.window = window
        slots = 1 if window.size > LARGE else (window.size + 3) // 4
        self.reads, self.writes = [0] * slots, [0] * slots


class SharedPage:
    """A page that several windows share or that one fills in part; a `Region` of one page."""

    size = PAGE

    def __init__(self, base: int, unclaimed: Place) -> None:
        self.base = base
        self.places: list[Place] = []
        self._unclaimed = unclaimed

    def _find(self, at: int, width: int) -> Place:
        for place in self.places:
            base = place.window.base
            if base <= at and at + width <= base + place.window.size:
                return place
        return self._unclaimed

    def window_at(self, at: int) -> tuple[Window, int]:
        """The window that decodes an address of the page, and the offset in it."""
        window = self._find(at, 1).window
        return window, at - window.base

    def read(self, offset: int, width: int) -> int:
        """Pass a read on to the window below it, counted there."""
        at = self.base + offset
        place = self._find(at, width)
        offset = at - place.window.base
        place.reads[offset >> 2 if len(place.reads) > offset >> 2 else 0] += 1
        return place.window.region.read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """Pass a write on to the window below it, counted there."""
        at = self.base + offset
        place = self._find(at, width)
        offset = at - place.window.base
        place.writes[offset >> 2 if len(place.writes) > offset >> 2 else 0] += 1
        place.window.region.write(offset, width, value)

    def register_name(self, offset: int, is_write: bool) -> str:
        """The name that the window below it gives."""
        window = self._find(self.base + offset, 1).window
        return window.region.register_name(self.base + offset - window.base, is_write)


class MmioBus:
    """The machine's memory-mapped chips; the vCPU thread's own.

    `fail` is told of anything a chip raises that is not an AccessError: an error of ours, not of the guest.
    """

    def __init__(self, faults: FaultLog, fail: Callable[[BaseException], None]) -> None:
        self._faults, self._fail = faults, fail
        self._unclaimed = Place(Window(0, PAGE, Unclaimed(PAGE), "unclaimed address", "device"))
        self._scratch = [0] * (PAGE // 4)
        self._readers: list[dict[int, Reader]] = []  # one an area, by offset in it
        self._writers: list[dict[int, Writer]] = []
        self._shared: dict[int, SharedPage] = {}  # by page number, as the next one
        self._whole: dict[int, Place] = {}
        self._places: dict[int, Place] = {}
        self._retired: dict[tuple[str, int], Place] = {}  # by name and size: a moved BAR counts on

    # ---- the map -----------------------------------------------------------------------------------

    def map(self, base: int, region: Region, name: str, kind: str = "device") -> Window:
        """Let `region` answer its `size` bytes from `base` on. Raises MapError."""
        size = region.size
        if size <= 0 or base < 0 or base + size > SPACE:
            raise MapError(f"{name}: {size:#x} bytes at {base:#010x} do not fit the address space")
        for place in self._places.values():
            taken = place.window
            if base < taken.base + taken.size and taken.base < base + size:
                raise MapError(f"{name} at {base:#010x} overlaps {taken.name} ({taken.base:#010x})")
        window = Window(base, size, region, name, kind)
        place = self._retired.pop((name, size)) if (name, size) in self._retired else Place(window)
        place.window = window
        self._places[base] = place
        self._lead(place, mapped=True)
        return place.window

    def unmap(self, base: int) -> None:
        """Take away the window that starts at `base`; its counts stay. Raises MapError where none does."""
        place = self._places.pop(base, None)
        if place is None:
            raise MapError(f"no window starts at {base:#010x}")
        self._retired[place.window.name, place.window.size] = place
        self._lead(place, mapped=False)

    def _lead(self, place: Place, *, mapped: bool) -> None:
        base, end = place.window.base, place.window.base + place.window.size
        for page in range(base >> SHIFT, (end + PAGE - 1) >> SHIFT):
            whole = base <= page << SHIFT and (page + 1) << SHIFT <= end and place.window.size <= LARGE
            if whole and mapped:
                self._whole[page] = place
            elif whole:
                del self._whole[page]
            else:
                self._share(page, place, mapped=mapped)
        for readers in self._readers:
            readers.clear()
        for writers in self._writers:
            writers.clear()

    def _share(self, page: int, place: Place, *, mapped: bool) -> None:
        shared = self._shared.setdefault(page, SharedPage(page << SHIFT, self._unclaimed))
        if mapped:
            shared.places.append(place)
            return
        shared.places.remove(place)
        if not shared.places:
            del self._shared[page]

    def _target(self, page: int) -> tuple[Region, int, list[int], list[int]]:
        """Who answers a page: region, address its offsets count from, counters."""
        if (place := self._whole.get(page)) is not None:
            return place.window.region, place.window.base, place.reads, place.writes
        if (shared := self._shared.get(page)) is not None:
            return shared, page << SHIFT, self._scratch, self._scratch
        return self._unclaimed.window.region, page << SHIFT, self._unclaimed.reads, self._unclaimed.writes

    def find(self, at: int) -> tuple[Window, int]:
        """The window that decodes an address, and the offset in it."""
        if (place := self._whole.get(at >> SHIFT)) is not None:
            return place.window, at - place.window.base
        if (shared := self._shared.get(at >> SHIFT)) is not None:
            return shared.window_at(at)
        return self._unclaimed.window, at & (PAGE - 1)

    def places(self) -> Iterator[Place]:
        """Every window that is or was mapped, with its counters, and the unclaimed space."""
        yield from self._places.values()
        yield from self._retired.values()
        yield self._unclaimed

    # ---- what the engine calls ---------------------------------------------------------------------

    def areas(self, ram: list[tuple[int, int]]) -> list[Area]:
        """All space but the (base, size) ranges of `ram`, cut at HOT_BASE and 4 GiB.

        A ROM that ends at 4 GiB may be among them; the hot area, which comes first, ends below it.
        """
        end = min([HOT_BASE + HOT_SIZE, *(base for base, _ in ram if HOT_BASE < base < HOT_BASE + HOT_SIZE)])
        taken = sorted([*ram, (HOT_BASE, end - HOT_BASE), (SPACE, 0)])
        found = [Area(HOT_BASE, end - HOT_BASE, self._make_read(HOT_BASE), self._make_write(HOT_BASE))]
        at = 0
        for base, size in taken:
            if base > at:
                found.append(Area(at, base - at, self._make_read(at), self._make_write(at)))
            at = max(at, base + size)
        return found

    def _make_read(self, base: int) -> ReadAt:
        readers: dict[int, Reader] = {}
        self._readers.append(readers)

        def learn(at: int) -> Reader:
            if len(readers) >= REMEMBERED:
                readers.clear()
            counts, register, chip, offset = self._register_at(base + at, is_write=False)
            readers[at] = found = counts, register, chip.read, offset
            return found

        def read(_engine: int, at: int, width: int, _user: int = 0) -> int:
            """Answer one load; every load from the area passes here."""
            try:
                counts, register, call, offset = readers[at]
            except KeyError:
                counts, register, call, offset = learn(at)
            counts[register] += 1
            try:
                return call(offset, width)
            except AccessError as error:
                return self._answer(base + at, width, error, is_write=False)
            except BaseException as error:  # ours: stop the machine, never unwind into the engine
                self._fail(error)
                return ONES[width]

        return read

    def _make_write(self, base: int) -> WriteAt:
        writers: dict[int, Writer] = {}
        self._writers.append(writers)

        def learn(at: int) -> Writer:
            if len(writers) >= REMEMBERED:
                writers.clear()
            counts, register, chip, offset = self._register_at(base + at, is_write=True)
            writers[at] = found = counts, register, chip.write, offset
            return found

        def write(_engine: int, at: int, width: int, value: int, _user: int = 0) -> None:
            """Carry out one store; every store to the area passes here."""
            try:
                counts, register, call, offset = writers[at]
            except KeyError:
                counts, register, call, offset = learn(at)
            counts[register] += 1
            try:
                call(offset, width, value)
            except AccessError as error:
                self._answer(base + at, width, error, is_write=True)
            except BaseException as error:  # ours: stop the machine, never unwind into the engine
                self._fail(error)

        return write

    def _register_at(self, at: int, *, is_write: bool) -> tuple[list[int], int, Region | Nobody, int]:
        """Counters and which of them, who answers an address, and the offset for it."""
        region, start, reads, writes = self._target(at >> SHIFT)
        offset = at - start
        chip = self._nobody(at, is_write=is_write) if region is self._unclaimed.window.region else region
        return writes if is_write else reads, offset >> 2, chip, offset

    def _nobody(self, at: int, *, is_write: bool) -> Nobody:
        """What answers an address that nothing decodes, and counts the faults."""
        where = f"mmio {at & -PAGE:#010x}"
        register = self._unclaimed.window.region.register_name(at & (PAGE - 1), is_write)
        return self._faults.kind(where, f"{'write' if is_write else 'read'} {register}", Fault.NO_REGISTER)

    def _answer(self, at: int, width: int, error: AccessError, *, is_write: bool) -> int:
        region, start, _, _ = self._target(at >> SHIFT)
        place = self._whole.get(at >> SHIFT)
        name = place.window.name if place is not None else "mmio"
        register = region.register_name(at - start, is_write)
        where = f"{name} {at & -PAGE:#010x}" if place is None else name
        self._faults.add(where, f"{'write' if is_write else 'read'} {register}", error.fault)
        return ONES[width]
