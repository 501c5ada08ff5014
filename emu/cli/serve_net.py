"""`emu serve vhost-user-net`: network cards for other processes' machines."""

from dataclasses import dataclass
from typing import Final, TextIO

from emu.cli.options import Option, help_text, number, parse
from emu.cli.serve import EXIT_STATUS
from emu.cli.serving import HIDDEN, Served, ServeDraft, common_options, serve
from emu.devices.net.echo import EchoPort
from emu.devices.virtio.net import MAX_PAIRS
from emu.errors import ConfigError
from emu.serve.loop import Loop
from emu.serve.net import Cards

USAGE: Final = """\
usage: emu serve vhost-user-net --socket PATH [--socket PATH ...] [--echo] [--poll]

Serve a network card to each machine that connects."""
EPILOG: Final = f"""\
exit status: {EXIT_STATUS}.
a machine: emu run -chardev socket,id=c,path=PATH -netdev vhost-user,id=n,chardev=c \\
                   -device virtio-net-pci,netdev=n ..."""


@dataclass(slots=True)
class Draft(ServeDraft):
    """The command line so far."""

    echo: bool = False
    pairs: int = 1


TABLE: Final[tuple[Option[Draft], ...]] = (
    *common_options(Draft),
    Option(
        "echo",
        None,
        lambda draft, _: setattr(draft, "echo", True),
        "each card's other end is an echo port",
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


def _no_word(_draft: Draft, word: str) -> None:
    raise ConfigError(f'"{word}": this kind takes flags only')


def run(argv: list[str], out: TextIO) -> int:
    """Serve until a signal comes."""
    draft = parse(argv, TABLE, Draft(), _no_word)
    if draft.help:
        out.write(help_text(USAGE, [option for option in TABLE if option.name not in HIDDEN], EPILOG))
        return 0
    if not draft.echo:
        raise ConfigError("give --echo")
    return serve(draft, lambda loop: _open(draft, loop), out)


def _open(draft: Draft, _loop: Loop) -> Served:
    cards = Cards(draft.pairs)
    return Served([cards.plugged_into(EchoPort) for _ in draft.sockets], [cards.costs], lambda: None)
