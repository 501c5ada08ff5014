#!/usr/bin/env python3
"""Build the guest images with the C compiler of the PyPI package `ziglang`.

Every folder with a `main.c` is an image: its sources and those of `common/` become
`built/<folder>.elf`; the linker drops what an image does not use. The same sources give the same
bytes on every machine: names are relative and the compiler's caches are fresh.
"""

import argparse
import hashlib
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FLAGS = shlex.split("""-target x86_64-freestanding-none -mcpu=x86_64-mmx-sse-sse2 -msoft-float -O2 -std=c11
-ffreestanding -fno-builtin -nostdlib -static -fno-pic -fno-pie -no-pie -mno-red-zone
-mcmodel=small -fno-stack-protector -fno-sanitize=all -fno-asynchronous-unwind-tables
-fno-unwind-tables -fno-ident -g0 -Wall -Wextra -Werror -ffunction-sections -fdata-sections
-Wl,--gc-sections -Wl,--entry=entry32 -Wl,--build-id=none -Wl,-z,max-page-size=4096
-Wl,-T,common/guest.ld""")


def image_names() -> list[str]:
    return sorted(main.parent.name for main in HERE.glob("*/main.c"))


def sources(name: str) -> list[str]:
    """Relative and sorted: both the names and their order reach the output."""
    return [
        str(path.relative_to(HERE))
        for folder in ("common", name)
        for path in sorted((HERE / folder).iterdir())
        if path.suffix in (".c", ".S")
    ]


def build(name: str, output: pathlib.Path) -> None:
    """Compile and link one image into `output`. Raises CalledProcessError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *FLAGS, *sources(name), "-o", str(output)],
            cwd=HERE,
            check=True,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": cache,
                "ZIG_GLOBAL_CACHE_DIR": cache,
                "ZIG_LOCAL_CACHE_DIR": cache,
            },
        )


def write_sums(folder: pathlib.Path, sums: pathlib.Path) -> None:
    """List the built files in the format of sha256sum, paths relative to the list."""
    lines = [
        f"{hashlib.sha256(elf.read_bytes()).hexdigest()}  {folder.name}/{elf.name}\n"
        for elf in sorted(folder.glob("*.elf"))
    ]
    sums.write_text("".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="names; default: all of them")
    parser.add_argument(
        "--into",
        type=pathlib.Path,
        default=HERE,
        metavar="FOLDER",
        help="where built/ and SHA256SUMS go; default: beside this file",
    )
    options = parser.parse_args()
    names = image_names()
    for name in options.images or names:
        if name not in names:
            parser.error(f"no image {name!r}; there are: {' '.join(names)}")
        build(name, options.into.resolve() / "built" / f"{name}.elf")
    write_sums(options.into / "built", options.into / "SHA256SUMS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
