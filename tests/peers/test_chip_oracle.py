"""Our chips answer as QEMU's do: the same random accesses on both, each read compared.

What differs stands in `differences.KNOWN`; a difference that is not there fails, and so does one that is
there but gone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.peers import sequences
from tests.peers.differences import KNOWN
from tests.peers.oracle import Difference, Op, Pair, first_difference, reads, script, sendable

STEPS = 2000
SEEDS = (1, 2)
CHIPS = ("pic", "pit", "pit_modes", "control", "uart", "rtc", "ps2", "ioapic", "acpi_pm", "pci", "ide")
DISKS = {"ide": "ide", "pci": "virtio"}
DISK_SIZE = 4 << 20

pytestmark = pytest.mark.peer("qemu-system-x86_64")

Sequence = Callable[[Random, int], Iterator[Op]]


def known(chip: str) -> list[Difference]:
    """Those of a chip; `pit_modes` is the `pit` with some more."""
    return [difference for difference in KNOWN if difference.chip in (chip, chip.partition("_")[0])]


def compare(pair: Pair, chip: str, sequence: Sequence, seed: int, steps: int = STEPS) -> None:
    differences = known(chip)
    ops = [op for op in sequence(Random(seed), steps) if sendable(differences, op)]
    found = first_difference(pair.run(ops), differences)
    assert not found, f"{chip}, seed {seed}, {found}"


def machines(chip: str, folder: Path) -> Pair:
    """The two machines with what a chip needs beside it."""
    if chip not in DISKS:
        return Pair(folder)
    disk = folder / "disk"
    disk.write_bytes(Random(0).randbytes(DISK_SIZE))
    return Pair(folder, disk, DISKS[chip])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("chip", CHIPS)
def test_random_accesses_read_alike(chip: str, seed: int, tmp_path: Path) -> None:
    with machines(chip, tmp_path) as pair:
        compare(pair, chip, getattr(sequences, chip), seed)


@pytest.mark.parametrize("difference", KNOWN, ids=lambda known: f"{known.chip}: {known.what}")
def test_a_known_difference_is_still_there(difference: Difference, tmp_path: Path) -> None:
    with machines(difference.chip, tmp_path) as pair:
        ours, theirs = reads(pair.run(script(difference.script)))
    assert ours[-len(difference.ours) :] == difference.ours, "our chip has changed"
    assert theirs[-len(difference.theirs) :] == difference.theirs, "QEMU's chip has changed"
    assert ours != theirs
