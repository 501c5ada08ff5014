"""`emu serve`: a device in a process of its own, for other processes' machines."""

from importlib import import_module
from typing import Final, TextIO

from emu.cli.options import nearest
from emu.errors import ConfigError

KINDS: Final = {
    "vhost-user-blk": ("emu.cli.serve_blk", "disks"),
    "vhost-user-net": ("emu.cli.serve_net", "network cards on a switch"),
}
USAGE: Final = """\
usage: emu serve KIND --socket PATH [--socket PATH ...] ...

Serve devices to machines of other processes (emu, QEMU, DPDK ...), which connect to the sockets.

"""
EXIT_STATUS: Final = "0 ended by a signal, 2 bad command line"


def run(argv: list[str], out: TextIO) -> int:
    """Find the kind and run it."""
    if not argv or argv[0] in ("-h", "-help", "--help"):
        out.write(USAGE + "".join(f"  {kind:<16}{what}\n" for kind, (_, what) in KINDS.items()))
        out.write("\nemu serve KIND --help tells more.\n")
        return 0 if argv else 2
    kind, *rest = argv
    if kind not in KINDS:
        raise ConfigError(f'serve: "{kind}" is no kind; {nearest(kind, KINDS)}')
    module = KINDS[kind][0]
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise ConfigError(f"serve {kind}: not built yet") from None
        raise
    try:
        status: int = found.run(rest, out)
    except ConfigError as error:
        raise ConfigError(f"serve {kind}: {error}") from None
    return status
