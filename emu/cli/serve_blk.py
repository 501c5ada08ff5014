"""`emu serve vhost-user-blk`: disks for other processes' machines."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TextIO

from emu.bus.costs import Costs
from emu.cli.options import Option, choice, key_values, number, switch, unique_keys
from emu.cli.serve import EXIT_STATUS
from emu.cli.serving import Served, ServeDraft, common_options, read_flags, serve
from emu.config import DriveConfig
from emu.devices.block.backend import BlockBackend
from emu.devices.block.open import FORMATS, open_image
from emu.devices.virtio.blk import MAX_QUEUES
from emu.errors import ConfigError
from emu.serve.blk import blk_devices

DRIVE_KEYS: Final = ("file", "format", "readonly", "snapshot")
USAGE: Final = """\
usage: emu serve vhost-user-blk --socket PATH [--socket PATH ...] --drive file=FILE [--drive ...] [--poll]

Serve a disk to each machine that connects. One drive is every guest's; with as many drives as sockets
each socket has its own, in order."""
EPILOG: Final = f"""\
exit status: {EXIT_STATUS}.
a machine: emu run -chardev socket,id=c,path=PATH -device vhost-user-blk-pci,chardev=c ..."""


@dataclass(slots=True)
class Draft(ServeDraft):
    """The command line so far."""

    drives: list[DriveConfig] = field(default_factory=list)
    snapshot: bool = False
    queues: int = 1


def _add_drive(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text), DRIVE_KEYS)
    if not values.get("file"):
        raise ConfigError("needs file=FILE")
    drive = DriveConfig(
        file=values["file"],
        format=choice("format", values["format"], FORMATS) if "format" in values else None,
        read_only=switch("readonly", values.get("readonly", "off")),
        snapshot=switch("snapshot", values.get("snapshot", "off")),
    )
    draft.drives.append(drive)


TABLE: Final[tuple[Option[Draft], ...]] = (
    *common_options(Draft),
    Option("drive", "file=FILE[,format=raw|qcow2]...", _add_drive, "a disk; also readonly=on, snapshot=on"),
    Option("snapshot", None, lambda draft, _: setattr(draft, "snapshot", True), "forget what is written"),
    Option(
        "num-queues",
        "N",
        lambda draft, text: setattr(draft, "queues", number("num-queues", text, 1, MAX_QUEUES)),
        "queues a disk; default 1",
        ours=True,
    ),
)


def run(argv: list[str], out: TextIO) -> int:
    """Serve until a signal comes."""
    draft = Draft()
    if not read_flags(argv, TABLE, draft, USAGE, EPILOG, out):
        return 0
    if not draft.drives:
        raise ConfigError("no disk: give --drive file=FILE")
    if len(draft.drives) not in (1, len(draft.sockets)) and draft.sockets:
        raise ConfigError(
            f"{len(draft.drives)} drives for {len(draft.sockets)} sockets: give one, or one a socket"
        )
    if draft.snapshot:
        draft.drives = [replace(drive, snapshot=True) for drive in draft.drives]
    return serve(draft, lambda _loop: _open(draft), out)


def _open(draft: Draft) -> Served:
    backends: list[BlockBackend] = []

    def close() -> None:
        for backend in backends:
            backend.close()

    try:
        for drive in draft.drives:
            snapshot = drive.snapshot and not drive.read_only
            backends.append(open_image(drive.file, drive.format, drive.read_only, snapshot))
        own = backends if len(backends) > 1 else backends * len(draft.sockets)
        devices = [blk_devices(backend, draft.queues) for backend in own]
    except BaseException:
        close()
        raise
    return Served(devices, [partial(_costs, backend) for backend in backends], close)


def _costs(backend: BlockBackend) -> Costs:
    return backend.costs
