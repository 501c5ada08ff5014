"""What a piece of work must cost on each path: formulas, compared with what the ledger counted.

Those for frames are in `net_budgets`.

A budget is for the whole run, in events and bytes, so that it is whole numbers: a range (low, high) for each
field, low = high where the path is deterministic. Where another thread serves the queue, it and the guest
decide by their speed how many requests share one doorbell or one interrupt; the range is what the protocol
allows.

One 4 KiB read over IDE PIO costs 2,056 exits: the alternate status once, 6 task file registers (device,
sector count, three of the address, command), 2,048 words of the data port, the status once. It also costs 2
writes to interrupt controllers (the end of interrupt of both 8259A), 1 interrupt, 1 system call, and its
4,096 bytes are copied twice. The same read over virtio costs 1 exit, 1 write to the local APIC, 1 interrupt,
1 system call and 1 copy; and requests that the device finds in the ring together, neighbours on the disk,
share the system call.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from emu.compare.counts import Budget, Range, exactly, polled
from emu.compare.net_budgets import NET_BUDGETS
from emu.compare.workloads import NET_OPS, SECTOR, Workload, random_sequence, rounds

DRIVE_BUFFER: Final = 128
"""Sectors that the drive model reads from its medium at once."""
LBA28_SECTORS, LBA48_SECTORS = 256, 65536
RUN_BYTES: Final = 1 << 20
"""Bytes of neighbouring virtio requests that one system call moves; a longer request has its own."""


class AtaTransfer(NamedTuple):
    """How one request of `sectors` sectors goes over the cable. Source: ATA/ATAPI-6, 9.5 to 9.7."""

    commands: int
    task: int
    blocks: int
    refills: int

    @staticmethod
    def of(work: Workload) -> "AtaTransfer":
        """28-bit commands carry 256 sectors and take 6 register writes; 48-bit ones 65,536 and 10."""
        left, features = work.bs // SECTOR, work.features
        lba48 = features.lba48 or left > LBA28_SECTORS
        most = LBA48_SECTORS if lba48 else LBA28_SECTORS
        commands = blocks = refills = 0
        while left:
            sectors = min(left, most)
            commands += 1
            blocks += -(-sectors // features.multiple)
            refills += -(-sectors // DRIVE_BUFFER)
            left -= sectors
        return AtaTransfer(commands, 10 if lba48 else 6, blocks, refills)


def ide_pio(work: Workload) -> Budget:
    """IDE by programmed I/O; exact in every field.

    A command: 1 read of the alternate status (not busy), `task` register writes, for a write 1 more read of
    the alternate status (DRQ). A block of `multiple` sectors: 1 interrupt, 1 read of the status, which takes
    the interrupt back, 2 ends of interrupt (the 8259A pair). The data: one exit for each 16 (or 32) bits.

    Each byte is copied twice, between medium and the drive's buffer and between buffer and guest. A read
    fills the buffer with one system call for 64 KiB, a write empties it with one for each block.
    """
    one, count = AtaTransfer.of(work), work.count
    exits = one.commands * (1 + one.task + work.writes) + one.blocks + work.bs * 8 // work.features.pio
    return Budget(
        exits=exactly(count * exits),
        light_exits=exactly(0),
        irqchip_exits=exactly(count * one.blocks * 2),
        interrupts=exactly(count * one.blocks),
        handoffs=exactly(0),
        bytes_copied=exactly(count * work.bs * 2),
        bytes_dma=exactly(0),
        syscalls=exactly(count * (one.blocks if work.writes else one.refills)),
    )


def transfers(work: Workload, batch: int) -> int:
    """System calls that move the data, where the device finds `batch` requests at each look at the ring.

    Requests of one batch that follow each other on the disk share one, up to RUN_BYTES. read and write go
    through the disk's blocks in order, and start anew after the last; randread has neighbours by chance.
    """
    most = max(1, min(batch, RUN_BYTES // work.bs))
    if work.op == "randread":
        return _random_transfers(work, batch, most)
    found = 0
    for start in range(0, work.count, work.blocks):
        length = min(work.blocks, work.count - start)
        first = min(length, -start % batch)  # the rest of the batch that the disk's end has cut
        full, last = divmod(length - first, batch)
        found += -(-first // most) + full * -(-batch // most) + -(-last // most)
    return found


def _random_transfers(work: Workload, batch: int, most: int) -> int:
    found, run, before = 0, 0, -1
    for i, block in enumerate(random_sequence(work.count, work.blocks)):
        joins = block == before + 1 and i % batch != 0 and run < most
        run = run + 1 if joins else 1
        found += not joins
        before = block
    return found


def virtio(work: Workload) -> Budget:
    """A virtqueue served inside of the guest's doorbell write; exact in every field.

    The device is done with the whole batch before the guest goes on, so the guest always finds all of its
    requests answered and fills the ring anew: batches of `qd`, and a last one with the rest. A batch costs
    1 doorbell (an exit), 1 interrupt and its end at the local APIC; a request 1 copy, from the medium
    straight to the guest's pages or back. Neighbours of a batch share a system call: see `transfers`.
    EVENT_IDX changes nothing here.
    """
    batches = -(-work.count // work.qd)
    return Budget(
        exits=exactly(batches),
        light_exits=exactly(0),
        irqchip_exits=exactly(batches),
        interrupts=exactly(batches),
        handoffs=exactly(0),
        bytes_copied=exactly(work.count * work.bs),
        bytes_dma=exactly(0),
        syscalls=exactly(transfers(work, work.qd)),
    )


def fewest_transfers(work: Workload) -> int:
    """System calls that move the data, where the worker's looks fall as well as they can.

    A look finds at most `qd` requests, wherever in the sequence it begins.
    """
    whole = transfers(work, work.count)
    return max(whole, -(-work.count // work.qd))


def threaded(work: Workload) -> Budget:
    """A virtqueue behind an ioeventfd, served by another thread: `virtio-iothread` and `vhost` alike.

    No exit at all: the doorbell only signals an event. Lower bounds: the worker sleeps at the begin, so it is
    rung and woken at least once; a batch has at most `qd` requests and ends with an interrupt that the guest
    waits for.

    Upper bounds. Depth 1: each request may be rung for and interrupts once; one interrupt more, where the
    guest saw the last request of its warm-up before that one's interrupt. Deeper: the guest rings once for
    each round's refill. An interrupt that the guest no longer waited for ends the next wait early, so there
    may be twice as many rounds as needed; but never more interrupts than requests, nor more than one left
    over from the warm-up. Without EVENT_IDX a completion may interrupt again after the worker's barrier.

    A request is one copy. How many neighbours share a system call depends on how many the worker finds at a
    time: from one to `qd`. Beyond that, each doorbell is a write and a read of its
    event and may wake the worker; each interrupt is a wake-up of the halted CPU (a write and a read of
    its event) or a signal to the running one; and the worker passes a barrier (membarrier) each time it
    found the ring empty.
    """
    count = work.count
    refilling, ending = rounds(work)
    spare = int(work.qd > 1)
    most = count + 1
    bells = min(count, 1 + (1 + spare) * refilling)
    interrupts = min(most, (1 + spare) * refilling + ending + 1)
    if not work.features.event_idx:
        bells, interrupts = count, 2 * most
    fewest = -(-count // work.qd)
    return Budget(
        exits=exactly(0),
        light_exits=Range(1, bells),
        irqchip_exits=Range(fewest, interrupts),
        interrupts=Range(fewest, interrupts),
        handoffs=Range(1, bells + interrupts),
        bytes_copied=exactly(count * work.bs),
        bytes_dma=exactly(0),
        syscalls=Range(fewest_transfers(work) + 2, count + 2 * bells + (count + bells) + 2 * interrupts),
    )


def vhost_user(work: Workload) -> Budget:
    """A virtqueue that another process serves by its kicks: as `threaded`, with longer ways.

    A doorbell wakes the other process, which needs one system call to hear of it. An interrupt is its write
    of the call event. A halted CPU waits for that by itself: its listener is muted, the wait, unmuted. Where
    the guest runs the listener wakes and looks, and may pass a barrier for the CPU. Where the CPU halts just
    then it is all of that: the listener, too, and its write of the CPU's own event, which is read.
    """
    near, count = threaded(work), work.count
    bells, interrupts = near.light_exits.high, near.interrupts.high
    return near._replace(
        handoffs=Range(1, bells + 2 * interrupts),
        syscalls=Range(fewest_transfers(work) + 2, count + 2 * bells + (count + bells) + 8 * interrupts),
    )


def vhost_user_poll(work: Workload) -> Budget:
    """A virtqueue that another process looks at all the time: its driver sees that it need not ring.

    The doorbells that are left are rung before the other process parked the ring. Interrupts as `vhost_user`.
    """
    count = work.count
    near = polled(vhost_user(work), count)
    most = count + 8 * near.interrupts.high + count // 10
    return near._replace(syscalls=Range(fewest_transfers(work) + 1, most))


DISK_BUDGETS: Final[Mapping[str, Callable[[Workload], Budget]]] = {
    "ide-pio": ide_pio,
    "virtio": virtio,
    "virtio-iothread": threaded,
    "vhost": threaded,
    "vhost-user": vhost_user,
    "vhost-user-poll": vhost_user_poll,
}
WATCHED: Final = frozenset({"vhost-user", "vhost-user-poll"})
"""Paths whose rings `emu.dataplanes.vhost_user.ring_watch` looks at."""
LOOK_NS: Final = 4_000_000


def budgets_of(op: str) -> Mapping[str, Callable[[Workload], Budget]]:
    """The formulas by path, for the paths that carry `op`, in the order of reports."""
    return NET_BUDGETS if op in NET_OPS else DISK_BUDGETS


def budget_of(path: str, work: Workload, watchdog: int = 0, elapsed_ns: int = 0) -> Budget:
    """The budget of one path. `watchdog` is how often the guest's 20-second timer rang in the run.

    Each ring is an interrupt and the end of it; where the CPU was halted, the wake-up is two system calls. On
    WATCHED paths a ring that stands still between two looks may get a kick and an interrupt more, and each
    look may wake the halted CPU, whose wake-ups are four.
    """
    budget = budgets_of(work.op)[path](work.on(path))
    looks = elapsed_ns // LOOK_NS + 1 if path in WATCHED else 0
    if not watchdog and not looks:
        return budget
    looks *= 2 if work.nets else 1  # a ring for each direction
    more, wakeup = watchdog + looks, 4 if looks else 2
    return budget._replace(
        irqchip_exits=Range(budget.irqchip_exits.low + watchdog, budget.irqchip_exits.high + more),
        interrupts=Range(budget.interrupts.low + watchdog, budget.interrupts.high + more),
        handoffs=Range(budget.handoffs.low, budget.handoffs.high + watchdog + 3 * looks),
        syscalls=Range(budget.syscalls.low, budget.syscalls.high + wakeup * watchdog + 13 * looks),
    )
