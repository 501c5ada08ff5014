"""What frames to an echo port and back must cost on each path; see `budgets`.

A frame is FRAME_HEADER + bs bytes long. Each way it goes it is copied once: out of the guest's memory by the
port, which makes the answer by a second copy; the third one puts that into the guest's memory. A SINK frame
is only taken. net-stream ends with a REPORT, which is a small ECHO. Virtio's own header of 12 bytes is no
data, and not counted.

The guest's receive ring has RECEIVE_BUFFERS; those it has looked at it gives back many at a time: see
`refills`. At depth 1 over virtio an echo costs 1 exit, 1 write to the local APIC, 1 interrupt, no system call
at all, three copies of the frame, and one more exit every 128 requests.
"""

from collections.abc import Callable, Mapping
from typing import Final

from emu.compare.counts import Budget, Range, exactly, polled
from emu.compare.workloads import REPORT_FRAME, Workload, rounds

RECEIVE_BUFFERS: Final = 256
E1000_LOOK: Final = 64
"""Frames that the 82540EM's model takes from its cable before the guest has a turn."""


def batches(work: Workload) -> int:
    """How often the guest shows the card new frames, where all is done before it goes on."""
    return -(-work.count // work.qd)


def refill_at(work: Workload) -> int:
    """Receive buffers that the guest gives back at once: half of them, fewer where so many are in flight."""
    return max(1, min(RECEIVE_BUFFERS // 2, RECEIVE_BUFFERS - work.qd))


def refills(work: Workload) -> int:
    """How often it does, beside a batch of requests, where all batches but the last one are full.

    A stream's answers are too few.
    """
    if work.op == "net-stream":
        return 0
    return (batches(work) - 1) // -(-refill_at(work) // work.qd)


def copied(work: Workload) -> int:
    """Bytes: three times each ECHO, once each SINK, three times the REPORT."""
    if work.op == "net-stream":
        return work.count * work.frame + 3 * REPORT_FRAME
    return 3 * work.count * work.frame


def e1000(work: Workload) -> Budget:
    """The 82540EM on the vCPU thread; exact, but for more than 64 requests in flight.

    A batch of requests: 1 write of TDT, in which the answers come; 1 interrupt, 1 read of ICR, which lowers
    the line, 2 ends of interrupt (the 8259A pair). A refill: 1 write of RDT. A stream takes no interrupt: the
    guest finds every frame sent when its write of TDT returns; only the REPORT is an interrupt.

    More than E1000_LOOK answers come in several turns, with interrupts between them, and what the guest
    sends meanwhile joins them: up to one interrupt, TDT and RDT write a request.
    """
    count = work.count
    if work.op == "net-stream":
        shown = exactly(batches(work) + 1)
        interrupts, given = exactly(1), exactly(0)
    elif work.qd <= E1000_LOOK:
        shown, interrupts, given = exactly(batches(work)), exactly(batches(work)), exactly(refills(work))
    else:
        shown, interrupts = Range(batches(work), count), Range(batches(work), count)
        given = Range(0, count // refill_at(work) + 1)
    return Budget(
        exits=Range(shown.low + interrupts.low + given.low, shown.high + interrupts.high + given.high),
        light_exits=exactly(0),
        irqchip_exits=Range(2 * interrupts.low, 2 * interrupts.high),
        interrupts=interrupts,
        handoffs=exactly(0),
        bytes_copied=exactly(copied(work)),
        bytes_dma=exactly(0),
        syscalls=exactly(0),
    )


def virtio(work: Workload) -> Budget:
    """Both virtqueues served inside of the guest's doorbell writes; exact in every field.

    A batch of requests: 1 doorbell of the transmit queue, 1 interrupt of the receive queue and its end. A
    refill: 1 doorbell of the receive queue, since the card always waits for buffers there. A stream is not
    interrupted until its REPORT.
    """
    streams = work.op == "net-stream"
    shown = batches(work) + streams
    interrupts = 1 if streams else batches(work)
    return Budget(
        exits=exactly(shown + refills(work)),
        light_exits=exactly(0),
        irqchip_exits=exactly(interrupts),
        interrupts=exactly(interrupts),
        handoffs=exactly(0),
        bytes_copied=exactly(copied(work)),
        bytes_dma=exactly(0),
        syscalls=exactly(0),
    )


def _bells_and_interrupts(work: Workload) -> tuple[int, int]:
    """At most, where another thread serves.

    Requests: as for a disk, and a doorbell for each refill. A stream shows what it has whenever something was
    sent, so it may ring, and wait, for each frame, and does so for the REPORT.
    """
    count = work.count
    if work.op == "net-stream":
        return count + 1, (count + 2) * (1 if work.features.event_idx else 2)
    given = count // refill_at(work) + 1
    if not work.features.event_idx:
        return count + given, 2 * (count + 1)
    refilling, ending = rounds(work)
    spare = int(work.qd > 1)
    bells = min(count, 1 + (1 + spare) * refilling)
    return bells + given, min(count + 1, (1 + spare) * refilling + ending + 1)


def threaded(work: Workload) -> Budget:
    """Both virtqueues behind ioeventfds, served by one other thread: `virtio-iothread` and `vhost` alike.

    Bounds as in `budgets.threaded`. The thread waits for several events: a doorbell is a write, a wait and a
    read. A look that sent something, which is one frame at least, ends with a barrier; then it looks at its
    events, and the receive queue has its turn, which ends with a barrier, too. So does one without a frame.
    """
    bells, interrupts = _bells_and_interrupts(work)
    frames = work.count + (work.op == "net-stream")
    fewest = 1 if work.op == "net-stream" else batches(work)
    return Budget(
        exits=exactly(0),
        light_exits=Range(1, bells),
        irqchip_exits=Range(fewest, interrupts),
        interrupts=Range(fewest, interrupts),
        handoffs=Range(1, bells + interrupts),
        bytes_copied=exactly(copied(work)),
        bytes_dma=exactly(0),
        syscalls=Range(4, 4 * bells + 3 * frames + 2 * interrupts),
    )


def vhost_user(work: Workload) -> Budget:
    """Both virtqueues served by another process' kicks: as `threaded`, with longer ways.

    A doorbell costs the other process one system call, an interrupt up to eight: see `budgets.vhost_user`.
    """
    near = threaded(work)
    bells, interrupts = near.light_exits.high, near.interrupts.high
    return near._replace(
        handoffs=Range(1, bells + 2 * interrupts),
        syscalls=Range(4, near.syscalls.high + 6 * interrupts),
    )


def vhost_user_poll(work: Workload) -> Budget:
    """Both virtqueues looked at all the time by another process; the driver sees that it need not ring."""
    near = polled(vhost_user(work), work.count)
    return near._replace(syscalls=Range(1, 8 * near.interrupts.high + work.count // 10))


NET_BUDGETS: Final[Mapping[str, Callable[[Workload], Budget]]] = {
    "e1000": e1000,
    "virtio": virtio,
    "virtio-iothread": threaded,
    "vhost": threaded,
    "vhost-user": vhost_user,
    "vhost-user-poll": vhost_user_poll,
}
