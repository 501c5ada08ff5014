"""Names for guest addresses, from the symbol table of an ELF file."""

from bisect import bisect_right

_KINDS = ("STT_FUNC", "STT_NOTYPE")


class Symbols:
    """The functions and labels of one ELF file; empty where it has none or is no ELF file."""

    def __init__(self, path: str | None) -> None:
        self._addresses: list[int] = []
        self._names: list[str] = []
        for address, name in sorted(_read(path)) if path is not None else ():
            self._addresses.append(address)
            self._names.append(name)

    def name(self, address: int) -> str:
        """`main+0x13`, or "" below the first symbol."""
        i = bisect_right(self._addresses, address) - 1
        if i < 0:
            return ""
        offset = address - self._addresses[i]
        return f"{self._names[i]}+{offset:#x}" if offset else self._names[i]

    def function(self, address: int) -> str:
        """The symbol that `address` lies in, without an offset."""
        i = bisect_right(self._addresses, address) - 1
        return self._names[i] if i >= 0 else ""


def _read(path: str) -> set[tuple[int, str]]:
    from elftools.common.exceptions import ELFError  # noqa: PLC0415 - 40 ms, for reports only
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - as above
    from elftools.elf.sections import SymbolTableSection  # noqa: PLC0415 - as above

    found = set()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pyelftools wants a file
            section = ELFFile(file).get_section_by_name(".symtab")
            for symbol in section.iter_symbols() if isinstance(section, SymbolTableSection) else ():
                defined = symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] in _KINDS
                if defined and symbol.name:
                    found.add((int(symbol["st_value"]), str(symbol.name)))
    except (OSError, ELFError):
        return set()
    return found
