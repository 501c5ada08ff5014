"""Kernels from Debian's packages, unpacked, not installed; an initramfs around a static busybox."""

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from emu.boot.cache import cache_folder

KERNELS = {
    "6.1": r"^linux-image-6\.1\..*-cloud-amd64$",
    "6.12": r"^linux-image-6\.12.*-cloud-amd64$",
}
BUSYBOX = "^busybox-static$"
DRIVERS = ("virtio_pci", "virtio_blk")
START = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /usr/bin /sbin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
echo "INIT-START $(uname -r)"
while read -r module; do insmod "/modules/$module"; done < /modules/order
"""
SHELL = f"{START}exec setsid cttyhack sh\n"
INIT = f"""\
{START}tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do usleep 20000; tries=$((tries + 1)); done
[ -b /dev/vda ] && echo "VDA $(dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum | cut -d' ' -f1)"
for word in $(cat /proc/cmdline); do case $word in job=*) job=${{word#job=}};; esac; done
echo "INIT-END $job"
[ "$job" = shell ] && exec setsid cttyhack sh
[ "$job" = reboot ] && reboot -f
poweroff -f
"""


def package(pattern: str, folder: Path) -> Path:
    """The newest package of that name, unpacked below `folder`. Skips the test where there is none."""
    for program in ("apt-cache", "apt-get", "dpkg"):
        if shutil.which(program) is None:
            missing(f"{program} is missing")
    found = subprocess.run(
        ["apt-cache", "search", "--names-only", pattern],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.splitlines()
    names = [line.split()[0] for line in found]
    names = [name for name in names if "dbg" not in name and "unsigned" not in name]
    if not names:
        missing(f"apt knows no package {pattern}")
    newest = max(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    tree = folder / newest
    if not tree.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["apt-get", "download", newest]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        archives = sorted(folder.glob(f"{newest}_*.deb"))
        if done.returncode or not archives:
            missing(f"apt-get cannot download {newest}")
        partial = folder / f"{newest}.part"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg", "-x", archives[-1], partial], timeout=120, check=True)
        archives[-1].unlink()
        partial.rename(tree)
    return tree


def missing(what: str) -> None:
    """Skip the test by the name of what it lacks; where peers are required, fail."""
    if os.environ.get("EMU_REQUIRE_PEERS") == "1":
        pytest.fail(f"{what}, and EMU_REQUIRE_PEERS=1", pytrace=False)
    pytest.skip(what)


class Debian:
    """One kernel and its initramfs.

    `drivers` are loaded in that order behind their dependencies; `init` is the shell script that runs first;
    `files` are further programs by their path in the guest. `version` is a key of KERNELS, or a regular
    expression of a package's name.
    """

    def __init__(
        self,
        version: str,
        drivers: Sequence[str] = DRIVERS,
        init: str = INIT,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        folder = Path(cache_folder() or "/tmp/emu") / "debian"
        tree = package(KERNELS.get(version, version), folder)
        busybox = package(BUSYBOX, folder)
        (self.kernel,) = map(str, (tree / "boot").glob("vmlinuz-*"))
        self.modules = next(
            path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.is_dir()
        )
        programs = (busybox / "bin/busybox", busybox / "usr/bin/busybox")
        program = next(path for path in programs if path.exists())
        content = initramfs(program, self.modules, drivers, init, files)
        name = f"{tree.name}-{hashlib.sha256(content).hexdigest()[:16]}.cpio.gz"
        self.initrd = str(folder / name)
        if not (folder / name).exists():
            partial = folder / f"{name}.{os.getpid()}"
            partial.write_bytes(content)
            partial.rename(self.initrd)


def initramfs(
    busybox: Path,
    modules: Path,
    drivers: Sequence[str],
    init: str = INIT,
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """A gzip-compressed cpio archive: busybox, drivers behind their dependencies, `init`, `more` files."""
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}
    for driver in drivers:
        _add_module(driver, files, loaded)
    entries: list[tuple[str, int, bytes]] = [("bin", 0o40755, b""), ("modules", 0o40755, b"")]
    entries += [("dev", 0o40755, b""), ("etc", 0o40755, b""), ("proc", 0o40755, b""), ("sys", 0o40755, b"")]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("bin/sh", 0o120777, b"busybox")]
    entries += [("init", 0o100755, init.encode())]
    entries += [(f"modules/{name}.ko", 0o100644, content) for name, content in loaded.items()]
    entries += [("modules/order", 0o100644, "".join(f"{name}.ko\n" for name in loaded).encode())]
    entries += [(path, 0o100755, content) for path, content in (more or {}).items()]
    return gzip.compress(b"".join(_cpio(entries)), mtime=0)


def _add_module(name: str, files: dict[str, Path], loaded: dict[str, bytes]) -> None:
    """Add a module after those it depends on; one without a file is built in."""
    if name in loaded or name not in files:
        return
    path = files[name]
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    section = ELFFile(io.BytesIO(content)).get_section_by_name(".modinfo")
    assert section is not None, name
    for word in section.data().split(b"\0"):
        if word.startswith(b"depends="):
            for other in filter(None, word[8:].decode().replace("-", "_").split(",")):
                _add_module(other, files, loaded)
    loaded[name] = content


def _cpio(entries: Sequence[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The "newc" format, as Linux' buffer-format.rst has it."""
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(f"{field:08X}".encode() for field in fields) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
