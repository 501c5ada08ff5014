#!/usr/bin/env python3
"""Build the programs for Linux guests with the C compiler of the PyPI package `ziglang`.

Every folder is one static program, `built/<folder>.elf`. The same sources give the same bytes on every
machine: names are relative. SHA256SUMS has the sums of both: a test sees what was not rebuilt.
"""

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = shlex.split("""-target x86_64-linux-musl -mcpu=x86_64 -static -O1 -std=c11 -s -g0 -fno-sanitize=all
-fno-ident -Wall -Wextra -Werror -Wl,--build-id=none""")


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h"))


def folders() -> list[Path]:
    return sorted({main.parent for main in HERE.glob("*/main.c")})


def build(folder: Path, output: Path) -> None:
    """Compile and link one program. Raises CalledProcessError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in sources(folder) if path.suffix == ".c"]
    with tempfile.TemporaryDirectory() as cache:
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *FLAGS, *names, "-o", str(output)],
            cwd=folder,
            check=True,
            env={"PATH": os.defpath, "HOME": cache, **caches},
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=HERE, metavar="FOLDER", help="default: beside this file")
    into = parser.parse_args().into.resolve()
    lines = []
    for folder in folders():
        output = into / "built" / f"{folder.name}.elf"
        build(folder, output)
        named = [(path, path.relative_to(HERE)) for path in sources(folder)]
        named.append((output, output.relative_to(into)))
        lines += [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for path, name in named]
    (into / "SHA256SUMS").write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
