"""`emu serve vhost-user-net`: network cards for other processes' machines."""

import contextlib
import sys
from dataclasses import dataclass
from functools import partial
from typing import Final, TextIO

from emu.cli.options import Option, number
from emu.cli.serve import EXIT_STATUS
from emu.cli.serving import Served, ServeDraft, common_options, read_flags, serve
from emu.devices.net.dump import Dumped, PcapFile
from emu.devices.net.echo import EchoPort
from emu.devices.net.passt import Passt
from emu.devices.net.types import NetBackend
from emu.devices.virtio.net import MAX_PAIRS
from emu.errors import ConfigError
from emu.serve.loop import Loop
from emu.serve.net import Cards
from emu.serve.switch import Port, Switch
from emu.serve.uplink import Connect, Uplink, unix_uplink

USAGE: Final = """\
usage: emu serve vhost-user-net --socket PATH [--socket PATH ...]
           [--switch] [--uplink passt|PATH] [--pcap FILE] [--poll]
       emu serve vhost-user-net --socket PATH [--socket PATH ...] --echo [--pcap FILE] [--poll]

Serve a network card to each machine that connects, all on one switch."""
EPILOG: Final = f"""\
exit status: {EXIT_STATUS}.
a machine: emu run -chardev socket,id=c,path=PATH -netdev vhost-user,id=n,chardev=c \\
                   -device virtio-net-pci,netdev=n ..."""


@dataclass(slots=True)
class Draft(ServeDraft):
    """The command line so far."""

    echo: bool = False
    switch: bool = False
    uplink: str | None = None
    pcap: str | None = None
    pairs: int = 1


TABLE: Final[tuple[Option[Draft], ...]] = (
    *common_options(Draft),
    Option(
        "echo",
        None,
        lambda draft, _: setattr(draft, "echo", True),
        "no switch: each card's other end is an echo port",
        ours=True,
    ),
    Option(
        "switch",
        None,
        lambda draft, _: setattr(draft, "switch", True),
        "join all cards by a learning switch; the default",
        ours=True,
    ),
    Option(
        "uplink",
        "passt|PATH",
        lambda draft, text: setattr(draft, "uplink", text),
        "the switch's way out: the host's network, or a Unix stream socket as of QEMU's -netdev stream",
        ours=True,
    ),
    Option(
        "pcap",
        "FILE",
        lambda draft, text: setattr(draft, "pcap", text),
        "write every frame to FILE",
        ours=True,
    ),
    Option(
        "queues",
        "N",
        lambda draft, text: setattr(draft, "pairs", number("queues", text, 1, MAX_PAIRS)),
        "queue pairs a card; default 1",
        ours=True,
    ),
)


def run(argv: list[str], out: TextIO) -> int:
    """Serve until a signal comes."""
    draft = Draft()
    if not read_flags(argv, TABLE, draft, USAGE, EPILOG, out):
        return 0
    if draft.echo and (draft.switch or draft.uplink is not None):
        raise ConfigError("--echo is no port of a switch; leave out --switch and --uplink")
    if draft.uplink == "passt" and len(draft.sockets) > 1:
        print("emu: serve: passt knows one guest: the one that sent last gets the answers", file=sys.stderr)
    return serve(draft, lambda loop: _open(draft, loop), out)


def _open(draft: Draft, loop: Loop) -> Served:
    cards = Cards(draft.pairs)
    costs = [cards.costs]
    with contextlib.ExitStack() as undo:
        capture = None
        if draft.pcap is not None:
            capture = file = PcapFile("--pcap", draft.pcap)
            undo.callback(file.close)
            costs.append(lambda: file.costs)
        if draft.echo:
            devices = [cards.plugged_into(lambda: _echo(capture)) for _ in draft.sockets]
        else:
            switch = Switch(capture)
            devices = [cards.plugged_into(partial(Port, switch, path)) for path in draft.sockets]
            if draft.uplink is not None:
                uplink = Uplink(loop, switch, _way(draft.uplink))
                undo.callback(uplink.close)
                costs.append(lambda: uplink.costs)
        return Served(devices, costs, undo.pop_all().close)


def _echo(capture: PcapFile | None) -> NetBackend:
    return EchoPort() if capture is None else Dumped(EchoPort(), capture)


def _way(uplink: str) -> Connect:
    if uplink == "passt":
        return lambda: Passt("uplink")
    return unix_uplink(uplink)
