"""`emu paths`: the ways a request can take from a guest's driver to its medium."""

from typing import Final, NamedTuple, TextIO

from emu.cli.exits import write_json
from emu.cli.images import json_target

NOT_BUILT: Final = "not built yet"


class Path(NamedTuple):
    """One way. `missing` is empty where it can be used."""

    name: str
    server: str
    doorbell: str
    missing: str


PATHS: Final = (
    Path("ide-pio", "device model on the vCPU thread", "every register and data word exits", ""),
    Path("e1000", "device model on the vCPU thread", "each register exits, served inline", ""),
    Path("virtio", "device model on the vCPU thread", "one exit, queue served inline", ""),
    Path("virtio-iothread", "I/O thread of the VMM", "light exit, thread, irq through the VMM", ""),
    Path("vhost", "kernel-style worker thread", "light exit, worker, irqfd", ""),
    Path("vfio", "hardware (a separate process)", "no exit: the BAR page is mapped", NOT_BUILT),
    Path("vhost-user", "another process, event driven", "light exit, other process, irqfd", ""),
    Path("vhost-user-poll", "another process, polling", "no exit: the driver sees NO_NOTIFY", ""),
    Path("mdev", "hardware; control trapped by its driver", "doorbell page mapped, control exits", NOT_BUILT),
    Path("sriov", "hardware virtual function", "no exit", NOT_BUILT),
    Path("vdpa", "hardware with virtio rings", "doorbell page mapped", NOT_BUILT),
    Path("vduse", "user process behind the vDPA bus", "light exit, process, irqfd", NOT_BUILT),
    Path("container", "the same vDPA or VDUSE device", "no guest: the host's driver", NOT_BUILT),
)


def run(argv: list[str], out: TextIO) -> int:
    """Print one line per path, or the same facts as JSON."""
    target = json_target(argv)
    if target is not None:
        listed = [{**path._asdict(), "ready": not path.missing} for path in PATHS]
        write_json(target, {"schema": 1, "paths": listed}, out)
        return 0
    for path in PATHS:
        state = path.missing or "ready"
        print(f"{path.name:<16} {state:<14} {path.server:<40} {path.doorbell}", file=out)
    return 0
