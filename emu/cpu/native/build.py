"""Compile thunks.c with zig's C compiler (PyPI's ziglang) into a flat blob: `python -m emu.cpu.native.build`.

The blob is the object file's .text: no linker, no relocation. The output is a Python module with CODE and
SYMBOLS (name -> offset), so that users need no compiler; the same source gives the same bytes anywhere.
"""

import hashlib
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = """-target x86_64-linux-musl -mcpu=x86_64 -mgeneral-regs-only -O2 -std=c11 -ffreestanding
-fno-builtin -fno-strict-aliasing -fPIC -fvisibility=hidden -mno-red-zone -fno-jump-tables
-fno-stack-protector -fno-sanitize=all -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident
-fno-function-sections -g0 -Wall -Wextra -Werror""".split()

SHT_SYMTAB, SHT_RELA, SHT_REL = 2, 4, 9
SHF_ALLOC, STT_SECTION = 2, 3


class BuildError(Exception):
    """The object file needs a linker."""


def compile_object() -> bytes:
    """The object file of thunks.c."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "thunks.o")
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": scratch,
            "ZIG_GLOBAL_CACHE_DIR": scratch,
            "ZIG_LOCAL_CACHE_DIR": scratch,
        }
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-c", "thunks.c", "-o", str(output)]
        subprocess.run(command, cwd=HERE, check=True, env=environment)
        return output.read_bytes()


def flatten(elf: bytes) -> tuple[bytes, dict[str, int]]:
    """The bytes of .text and its symbols. Raises BuildError for anything that would need a linker."""
    table_at = struct.unpack_from("<Q", elf, 40)[0]
    count, names_index = struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table_at + 64 * i) for i in range(count)]

    def text_at(base: int, at: int) -> str:
        return elf[base + at : elf.index(b"\0", base + at)].decode()

    names = [text_at(headers[names_index][4], header[0]) for header in headers]
    text = names.index(".text")
    code, symbols = b"", {}
    for i, (_, kind, flags, _, offset, size, link, info, _, _) in enumerate(headers):
        if kind in (SHT_RELA, SHT_REL) and info == text:
            raise BuildError(f"{names[i]}: the code needs relocations")
        if flags & SHF_ALLOC and size and i != text:
            raise BuildError(f"{names[i]}: only .text may have contents")
        if i == text:
            code = elf[offset : offset + size]
        if kind == SHT_SYMTAB:
            for at in range(offset, offset + size, 24):
                label, how, _, section, value, _ = struct.unpack_from("<IBBHQQ", elf, at)
                if section == text and how & 15 != STT_SECTION and label:
                    symbols[text_at(headers[link][4], label)] = value
    return code, dict(sorted(symbols.items(), key=lambda item: item[1]))


def module(code: bytes, symbols: dict[str, int]) -> str:
    """The text of blob.py."""
    source = hashlib.sha256((HERE / "thunks.c").read_bytes()).hexdigest()
    lines = "\n".join(f'    "{code[at : at + 48].hex()}"' for at in range(0, len(code), 48))
    table = "".join(f'    "{name}": {offset},\n' for name, offset in symbols.items())
    return (
        '"""Machine code of thunks.c, made by build.py; do not edit."""\n\n'
        f'SOURCE_SHA256 = "{source}"\n'
        f"SYMBOLS = {{\n{table}}}\n"
        f"CODE = bytes.fromhex(\n{lines}\n)\n"
    )


if __name__ == "__main__":
    (HERE / "blob.py").write_text(module(*flatten(compile_object())))
