"""`emu images`: the guest images that come with this package."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import emu
from emu.cli.exits import write_json
from emu.cli.options import Option, parse
from emu.errors import ConfigError

CHUNK = 1 << 20
SUMS = "SHA256SUMS"
JSON_TABLE: list[Option[list[str]]] = [
    Option("json", "FILE", list.append, "write JSON to FILE, - for standard output", ours=True)
]


@dataclass(frozen=True, slots=True)
class Image:
    """One built guest image. `state` is "ready", "differs" from its recorded sum, or "unlisted"."""

    name: str
    path: str
    bytes: int
    sha256: str
    state: str


def folders() -> list[Path]:
    """Where built images may be: in the installed package, or beside it in a checkout."""
    package = Path(emu.__file__).resolve().parent
    return [package / "images", package.parent / "guest-images"]


def all_images() -> list[Image]:
    """Every image found, each name once, the package's own first."""
    found: dict[str, Image] = {}
    for folder in folders():
        sums = _sums(folder)
        paths = {folder / name for name in sums} | set(folder.glob("*.elf")) | set(folder.glob("built/*"))
        for path in sorted(paths):
            if path.is_file() and path.name != SUMS:
                image = _image(path, sums.get(path.relative_to(folder).as_posix()))
                found.setdefault(image.name, image)
    return sorted(found.values(), key=lambda image: image.name)


def resolve(word: str) -> str:
    """The file that an IMAGE on the command line means: itself, or a built image's name."""
    if "/" in word or Path(word).exists():
        return word
    for folder in folders():
        for path in (folder / f"{word}.elf", folder / "built" / word, folder / "built" / f"{word}.elf"):
            if path.is_file():
                return str(path)
    return word


def run(argv: list[str], out: TextIO) -> int:
    """Print one line per image, or the same facts as JSON."""
    target = json_target(argv)
    images = all_images()
    if target is not None:
        write_json(target, {"schema": 1, "images": [asdict(image) for image in images]}, out)
        return 0
    for image in images:
        print(
            f"{image.name:<12} {image.bytes:>9,} {image.sha256[:16]} {image.state:<9} {image.path}", file=out
        )
    if not images:
        print("no guest images are here; make images builds them", file=out)
    return 0


def json_target(argv: list[str]) -> str | None:
    """Read a command line that knows `--json FILE` alone; None where it is not given."""
    chosen: list[str] = []

    def refuse(_draft: list[str], word: str) -> None:
        raise ConfigError(f'"{word}": not expected; --json FILE is the only flag')

    parse(argv, JSON_TABLE, chosen, refuse)
    return chosen[-1] if chosen else None


def _sums(folder: Path) -> dict[str, str]:
    """The recorded sums by path within `folder`."""
    listed = folder / SUMS
    if not listed.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in listed.read_text(encoding="utf-8").splitlines())
    return {parts[1].lstrip("*").strip(): parts[0] for parts in lines if len(parts) == 2}


def _image(path: Path, recorded: str | None) -> Image:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    actual = digest.hexdigest()
    state = "unlisted" if recorded is None else "ready" if actual == recorded else "differs"
    return Image(path.stem, str(path), path.stat().st_size, actual, state)
