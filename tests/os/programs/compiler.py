"""Debian's tcc with its libraries for a guest, and C programs whose output is known."""

import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.os.debian import package

LIB = "lib/x86_64-linux-gnu"
TCC = f"usr/{LIB}/tcc"
FILES = {
    "^tcc$": ("usr/bin/tcc", TCC),
    "^libc6$": tuple(
        f"{LIB}/{name}"
        for name in ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2")
    ),
    "^libc6-dev$": (
        "usr/include",
        *(f"usr/{LIB}/{name}" for name in ("crt1.o", "crti.o", "crtn.o", "libc.so", "libc_nonshared.a")),
    ),
}
"""By package: what a guest needs to compile, link and run."""


@dataclass(frozen=True)
class Source:
    """A C program that prints `compiled` and a number that it makes of its argument; and that number."""

    text: bytes
    run: Callable[[int], int]


def make_source(seed: int, functions: int = 200) -> Source:
    """A chain of functions on 32-bit numbers, drawn by `seed`."""
    draw = random.Random(seed)
    steps = [
        (draw.choice("+-*^"), draw.getrandbits(32), draw.randrange(1, 32), draw.randrange(2, 20))
        for _ in range(functions)
    ]
    lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>"]
    for number, (sign, value, shift, count) in enumerate(steps):
        lines += [
            f"static unsigned f{number}(unsigned x) {{",
            "    unsigned i, sum = x;",
            f"    for (i = 0; i < {count}; i++)",
            f"        sum = (sum {sign} {value}u) + i;",
            f"    return sum << {shift} | sum >> {32 - shift};",
            "}",
        ]
    lines += ["int main(int count, char **words) {", "    unsigned x = strtoul(words[count - 1], 0, 10);"]
    lines += [f"    x = f{number}(x);" for number in range(functions)]
    lines += ['    printf("compiled %u\\n", x);', "    return 0;", "}", ""]

    def run(x: int) -> int:
        for sign, value, shift, count in steps:
            for i in range(count):
                x = {"+": x + value, "-": x - value, "*": x * value, "^": x ^ value}[sign] + i & 0xFFFF_FFFF
            x = (x << shift | x >> 32 - shift) & 0xFFFF_FFFF
        return x

    return Source("\n".join(lines).encode(), run)


class Compiler:
    """The packages, unpacked below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._trees = {pattern: package(pattern, folder) for pattern in FILES}

    def archive(self) -> bytes:
        """A tar archive of FILES, to be unpacked at the guest's root."""
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w") as tar:
            for pattern, names in FILES.items():
                tree = self._trees[pattern]
                for name in names:
                    tar.add(
                        tree / name if (tree / name).exists() else tree / "usr" / name, name, filter=_plain
                    )
            loader = tarfile.TarInfo("lib64/ld-linux-x86-64.so.2")
            loader.type, loader.linkname = tarfile.SYMTYPE, f"/{LIB}/ld-linux-x86-64.so.2"
            tar.addfile(loader)
        return output.getvalue()

    def object_md5(self, source: Source, folder: Path) -> str:
        """The sum of the object file that the same compiler makes on this processor."""
        (folder / "a.c").write_bytes(source.text)
        tcc, headers = self._trees["^tcc$"], self._trees["^libc6-dev$"] / "usr/include"
        words = [str(tcc / "usr/bin/tcc"), f"-B{tcc / TCC}", "-nostdinc"]
        words += [f"-I{headers / 'x86_64-linux-gnu'}"]
        words += [f"-I{headers}", f"-I{tcc / TCC / 'include'}", "-c", "-o", "a.o", "a.c"]
        subprocess.run(words, cwd=folder, check=True, timeout=60)
        return hashlib.md5((folder / "a.o").read_bytes(), usedforsecurity=False).hexdigest()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same archive on every host."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
