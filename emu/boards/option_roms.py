"""Which expansion ROM a card has: the file of `romfile=`, or the one that boots from the network."""

from collections.abc import Mapping, Sequence
from typing import Final

from emu.boards.bios import FOLDERS, find_data
from emu.bus.option_rom import OptionRom, RomError, made_for
from emu.bus.pci_bar import ROM_MOST
from emu.errors import ConfigError

IPXE_FOLDERS: Final = ("/usr/lib/ipxe/qemu", *FOLDERS)


def rom_of(
    driver: str,
    properties: Mapping[str, str],
    default: str,
    identity: tuple[int, int],
    *,
    boots: bool,
    folders: Sequence[str] = IPXE_FOLDERS,
) -> OptionRom | None:
    """The ROM of a card that says `identity` (vendor, device), or None.

    `romfile=` names a file, an empty one says that there is no ROM. Without it a card that is to be booted
    from has `default`, where that is installed; its identifiers are made the card's. Raises ConfigError.
    """
    named = properties.get("romfile")
    if named == "" or (named is None and not boots):
        return None
    path = find_data(named or default, folders)
    if path is None:
        if named is None:
            return None
        raise ConfigError(f"-device {driver}: romfile={named}: no such file, nor in {IPXE_FOLDERS[0]}")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms of start
            content = file.read(ROM_MOST + 1)
        return OptionRom(made_for(content, *identity) if named is None else content)
    except OSError as error:
        raise ConfigError(f"-device {driver}: romfile={path}: {error.strerror}") from None
    except RomError as error:
        raise ConfigError(f"-device {driver}: romfile={path}: {error}") from None
