"""The work that every path does, and the patterned disk or frames it is done on.

The guest is `guest-images/iobench`.

Word w of the disk (64 bits, little-endian) is a function of w and of the generation, so that guest and host
know every byte of it without talking to each other. Formulas: `guest-images/README.md`.
"""

import errno
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from emu.errors import ConfigError

DISK_OPS: Final = ("read", "write", "randread")
NET_OPS: Final = ("net-rr", "net-stream")
OPS: Final = (*DISK_OPS, *NET_OPS)
SECTOR: Final = 512
FRAME_HEADER: Final = 16
"""Bytes of a frame in front of its data: addresses, EtherType, opcode, a zero."""
FRAME_UNIT, MOST_FRAME = 64, 8192
"""A frame's data is so many bytes or a multiple of them, and no more than the most."""
REPORT_FRAME: Final = FRAME_HEADER + 64
QUEUE_SIZE: Final = 256
"""Descriptors of the virtqueue: QEMU's and our default."""
GUEST_RAM: Final = 128 << 20
ROOM_FOR_DATA: Final = 96 << 20
"""Bytes of the guest's RAM that requests in flight may fill."""
LEAST_DISK, MOST_DISK = 1 << 20, 16 << 20
MOST_REQUESTS: Final = 100_000_000

MASK64: Final = (1 << 64) - 1
STEP, MASK, GENERATION = 0x9E3779B97F4A7C15, 0xE5C0DE5EEDF00D11, 0xD1B54A32D192ED03
XORSHIFT: Final = 0x2545F4914F6CDD1D
SEED: Final = 1


class Features(NamedTuple):
    """What the guest's driver agrees on with the device; the defaults are those of a modern driver.

    `event_idx`: virtio's EVENT_IDX. `multiple`: sectors an interrupt of IDE (1: READ and WRITE SECTORS).
    `lba48`: 48-bit commands throughout. `pio`: bits of an access to IDE's data port, 16 or 32.
    """

    event_idx: bool = True
    multiple: int = 16
    lba48: bool = False
    pio: int = 16


MODERN: Final = Features()


@dataclass(frozen=True, slots=True)
class Workload:
    """`count` requests of `bs` bytes, `qd` of them in flight; `op` is one of OPS."""

    op: str
    bs: int
    qd: int
    count: int
    features: Features = MODERN

    @property
    def writes(self) -> bool:
        """True where the disk changes."""
        return self.op == "write"

    @property
    def nets(self) -> bool:
        """True where requests are frames."""
        return self.op in NET_OPS

    @property
    def frame(self) -> int:
        """Bytes of a frame that carries a request."""
        return FRAME_HEADER + self.bs

    @property
    def blocks(self) -> int:
        """Blocks of `bs` bytes on the disk: one for each request, within 1 and 16 MiB."""
        least, most = -(-LEAST_DISK // self.bs), max(1, MOST_DISK // self.bs)
        return max(least, min(self.count, most))

    def on(self, path: str) -> "Workload":
        """What is left of it on one path: IDE has one request in flight, always."""
        return replace(self, qd=1) if path == "ide-pio" else self

    def command_line(self, path: str, generation: int) -> str:
        """The guest's words for it; `generation` of the pattern is written, or expected."""
        features = self.features
        words = [f"op={self.op}", f"bs={self.bs}", f"qd={self.qd}", f"count={self.count}", f"seed={SEED}"]
        words.append(f"gen={generation}")
        if path == "e1000":
            words.append("path=e1000")
        elif path == "ide-pio":
            words += ["path=ide", f"pio={features.pio}", f"lba={48 if features.lba48 else 28}"]
            words.append(f"multiple={int(features.multiple > 1)}")
        else:
            words += ["path=virtio", f"event_idx={int(features.event_idx)}"]
        return " ".join(words)


def check(work: Workload) -> None:
    """Refuse what no machine here can do. Raises ConfigError in one line."""
    if work.op not in OPS:
        raise ConfigError(f'op "{work.op}" is not one of {", ".join(OPS)}')
    unit, what = (FRAME_UNIT, "as frames are made here") if work.nets else (SECTOR, "a sector")
    if work.bs < unit or work.bs % unit:
        near = max(unit, round(work.bs / unit) * unit)
        raise ConfigError(f"bs {work.bs} is not a multiple of {unit} bytes, {what}; try {near}")
    if work.nets and work.bs > MOST_FRAME:
        raise ConfigError(f"bs {work.bs}: a frame carries {MOST_FRAME} bytes at most")
    if not 1 <= work.qd <= QUEUE_SIZE:
        raise ConfigError(f"qd {work.qd}: the queue has {QUEUE_SIZE} places; 1 to {QUEUE_SIZE} are possible")
    if not 1 <= work.count <= MOST_REQUESTS:
        raise ConfigError(f"count {work.count}: 1 to {MOST_REQUESTS} requests are possible")
    if work.bs * work.qd > ROOM_FOR_DATA:
        raise ConfigError(
            f"bs {work.bs} times qd {work.qd} is more than the {ROOM_FOR_DATA >> 20} MiB of guest memory "
            f"for data; at this bs qd may be {ROOM_FOR_DATA // work.bs}"
            if work.bs <= ROOM_FOR_DATA
            else f"bs {work.bs} is more than the {ROOM_FOR_DATA >> 20} MiB of guest memory for data"
        )


def wish(in_flight: int, event_idx: bool) -> int:
    """Completions after which the guest wants its interrupt: 1 below 8 in flight, else 3/4 of them and 1."""
    return in_flight * 3 // 4 + 1 if event_idx and in_flight >= 8 else 1


def rounds(work: Workload) -> tuple[int, int]:
    """The guest's rounds with something to submit after the first, and the rounds without, at the end.

    Each round waits for `wish` completions and submits as many requests anew while there are any.
    """
    event_idx = work.features.event_idx
    left = min(work.qd, work.count)
    refilling, ending = -(-(work.count - left) // wish(work.qd, event_idx)), 0
    while left > 0:
        left -= wish(left, event_idx)
        ending += 1
    return refilling, ending


def pattern(words: int, generation: int) -> "array[int]":
    """The first `words` words of a generation; about 0.15 us each."""
    mask = MASK ^ generation * GENERATION & MASK64
    step, top = STEP, MASK64
    found = array("Q", [word * step & top ^ mask for word in range(1, words + 1)])
    if sys.byteorder == "big":
        found.byteswap()
    return found


def random_sequence(count: int, blocks: int) -> Iterator[int]:
    """The blocks that `randread` reads, in order. Source: Vigna's xorshift64*."""
    state = SEED
    for _ in range(count):
        state ^= state >> 12
        state ^= state << 25 & MASK64
        state ^= state >> 27
        yield ((state * XORSHIFT & MASK64) >> 32) * blocks >> 32


def random_blocks(count: int, blocks: int) -> Counter[int]:
    """How often `randread` reads each block."""
    return Counter(random_sequence(count, blocks))


def checksum(work: Workload, words: "array[int]") -> int:
    """The sum of all words that the guest moves, modulo 2**64; `words` is a whole disk."""
    each = work.bs // 8
    if work.op == "randread":
        times = random_blocks(work.count, work.blocks)
        return sum(sum(words[b * each : (b + 1) * each]) * n for b, n in times.items()) & MASK64
    rounds, rest = divmod(work.count, work.blocks)
    return (rounds * sum(words) + sum(words[: rest * each])) & MASK64


class PatternFrames:
    """What frames carry: the data of a patterned disk that is nowhere."""

    def __init__(self, work: Workload) -> None:
        self._work = work

    file = ""

    def next_generation(self) -> int:
        """Always the same."""
        return 0

    def checksum(self) -> int:
        """The sum of all words that the guest sends, modulo 2**64."""
        work = self._work
        return checksum(work, pattern(work.blocks * work.bs // 8, 0))

    def wrong_byte(self) -> int | None:
        """There is no medium to look at."""
        return None


class PatternDisk:
    """A raw image of generation 0 at `file`, whose content is known to the byte.

    Raises ConfigError where there is no room for it.
    """

    def __init__(self, file: str, work: Workload) -> None:
        self.file, self._work = file, work
        self.size = work.blocks * work.bs
        self._words = pattern(self.size // 8, 0)
        self._generation = 0
        try:
            with open(file, "wb") as image:  # noqa: PTH123 - the name is a string all along
                self._words.tofile(image)
        except OSError as error:
            what = "no room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            folder = os.path.dirname(file)  # noqa: PTH120 - as above
            raise ConfigError(
                f"{folder}: {what} for a disk of {self.size >> 10} KiB; set TMPDIR to a folder with room"
            ) from error

    def next_generation(self) -> int:
        """The generation that a path's guest shall write, a new one each time, or shall read: 0."""
        if not self._work.writes:
            return 0
        self._generation += 1
        return self._generation

    def checksum(self) -> int:
        """The sum of all words that the guest reads or writes, modulo 2**64, request by request."""
        work = self._work
        return checksum(work, pattern(len(self._words), self._generation) if work.writes else self._words)

    def wrong_byte(self) -> int | None:
        """Read the medium back: the first byte that is not what the work leaves behind, or None."""
        with open(self.file, "rb") as image:  # noqa: PTH123 - as above
            found = image.read()
        expected = bytes(memoryview(self._expected()).cast("B"))
        if found == expected:
            return None
        pairs = zip(found, expected, strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))

    def _expected(self) -> "array[int]":
        work = self._work
        written = min(work.count, work.blocks) * work.bs // 8 if work.writes else 0
        return pattern(written, self._generation) + self._words[written:]


Medium = PatternDisk | PatternFrames
