import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.boot.cache import LINKS, FileCache, cache_folder

DATA = b"kernel" * 1000


def fill(write: Callable[[bytes], object]) -> None:
    write(DATA[:100])
    write(DATA[100:])


def never(_write: Callable[[bytes], object]) -> None:
    raise AssertionError("the file is there already")


def contents(fd: int) -> bytes:
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def test_a_file_is_made_once_and_found_again(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "a" / "emu")
    assert contents(cache.open("k", len(DATA), fill)) == DATA
    assert contents(cache.open("k", len(DATA), never)) == DATA
    assert (tmp_path / "a" / "emu").stat().st_mode & 0o077 == 0


def test_a_file_of_the_wrong_size_is_made_anew(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    (tmp_path / "k.kept").write_bytes(b"cut")
    assert contents(cache.open("k", len(DATA), fill)) == DATA
    assert (tmp_path / "k.kept").read_bytes() == DATA


@pytest.mark.parametrize("what", ["none", "a file is in its place", "nobody may write there"])
def test_without_a_usable_folder_nothing_is_kept(tmp_path: Path, what: str) -> None:
    folder: Path | None = tmp_path / "emu"
    if what == "none":
        folder = None
    elif what == "a file is in its place":
        (tmp_path / "emu").write_bytes(b"")
    else:
        folder = Path("/proc/emu-cache")
    assert contents(FileCache(folder).open("k", len(DATA), fill)) == DATA
    assert contents(FileCache(folder).open("k", len(DATA), fill)) == DATA


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    """A limit on file sizes makes writes fail, as a full disk does; it is lifted for the second try."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = [before, (500, before[1])]

    def fill_under_limit(write: Callable[[bytes], object]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits.pop())
        fill(write)

    try:
        fd = FileCache(tmp_path).open("k", len(DATA), fill_under_limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert contents(fd) == DATA
    assert list(tmp_path.iterdir()) == []


def test_what_the_filler_raises_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def broken(write: Callable[[bytes], object]) -> None:
        write(b"half")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        FileCache(tmp_path).open("k", len(DATA), broken)
    assert list(tmp_path.iterdir()) == []


def test_the_files_unused_for_longest_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, limit=2 * len(DATA))
    now = time.time()
    for age, key in ((300, "old"), (200, "older-but-used"), (100, "young")):
        (tmp_path / f"{key}.kept").write_bytes(DATA)
        os.utime(tmp_path / f"{key}.kept", (now - age, now - age))
    os.close(cache.open("older-but-used", len(DATA), never))
    os.close(cache.open("new", len(DATA), fill))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.kept", "older-but-used.kept"]


def test_what_a_dead_writer_left_goes_after_a_while(tmp_path: Path) -> None:
    for name, age in (("1-1.part", 7200), ("2-2.part", 10)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    os.close(FileCache(tmp_path).open("k", len(DATA), fill))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-2.part", "k.kept"]


def test_two_writers_at_once_both_get_the_whole_file(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    got: list[bytes] = []

    def slow(write: Callable[[bytes], object]) -> None:
        write(DATA[:50])
        both.wait(10)
        write(DATA[50:])

    def run() -> None:
        got.append(contents(FileCache(tmp_path).open("k", len(DATA), slow)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert got == [DATA, DATA]
    assert [path.name for path in tmp_path.iterdir()] == ["k.kept"]


HASH = "0123456789abcdef" * 4


def settled(path: Path) -> Path:
    """A file whose last change is long enough ago: the clock of `emu.boot.cache` is ahead of it."""
    path.write_bytes(b"kernel")
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr("emu.boot.cache.time.time_ns", lambda: now() + 10_000_000_000)


def asked(cache: FileCache, path: Path) -> tuple[str, int]:
    """The hash that the cache says, and how often it had to be computed."""
    asks: list[int] = []

    def compute() -> str:
        asks.append(1)
        return HASH

    with path.open("rb") as file:
        return cache.hash_of(file.fileno(), compute), len(asks)


@pytest.mark.usefixtures("later")
def test_a_files_hash_is_computed_once(tmp_path: Path) -> None:
    cache, path = FileCache(tmp_path / "emu"), settled(tmp_path / "bzImage")
    assert [asked(cache, path), asked(cache, path)] == [(HASH, 1), (HASH, 0)]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["written", "replaced", "touched"])
def test_a_changed_file_is_another(tmp_path: Path, change: str) -> None:
    cache, path = FileCache(tmp_path / "emu"), settled(tmp_path / "bzImage")
    before = path.stat()
    asked(cache, path)
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock ticks
        if change == "written":
            path.write_bytes(b"KERNEL")
        elif change == "replaced":
            settled(tmp_path / "new").rename(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert asked(cache, path) == (HASH, 1)


def test_the_hash_of_a_file_that_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    cache, path = FileCache(tmp_path / "emu"), settled(tmp_path / "bzImage")
    assert [asked(cache, path), asked(cache, path)] == [(HASH, 1), (HASH, 1)]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("target", ["../../etc/passwd", "a" * 63, "b" * 62 + "/x"])
def test_a_link_that_is_no_hash_is_not_believed(tmp_path: Path, target: str) -> None:
    cache, path = FileCache(tmp_path / "emu"), settled(tmp_path / "bzImage")
    asked(cache, path)
    (link,) = (tmp_path / "emu").iterdir()
    link.unlink()
    link.symlink_to(target)
    assert [asked(cache, path), asked(cache, path)] == [(HASH, 1), (HASH, 0)]


@pytest.mark.usefixtures("later")
def test_the_links_are_bounded(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "emu")
    for i in range(LINKS + 3):
        asked(cache, settled(tmp_path / f"bzImage{i}"))
    assert len(list((tmp_path / "emu").iterdir())) == LINKS


@pytest.mark.parametrize(
    ("pieces", "hole"), [([0, 3 * 4096 + 100], 4096), ([0, 5, 4096, 4097, 3 * 4096, 3 * 4096 + 100], 8192)]
)
def test_zeros_are_kept_as_holes(tmp_path: Path, pieces: list[int], hole: int) -> None:
    data = b"a" + bytes(3 * 4096 - 1) + bytes(100)
    cuts = list(itertools.pairwise(pieces))

    def fill(write: Callable[[bytes], object]) -> None:
        for start, stop in cuts:
            write(data[start:stop])

    fd = FileCache(tmp_path).open("k", len(data), fill)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == hole
    assert contents(fd) == data


def test_a_file_that_ends_in_zeros_has_its_size(tmp_path: Path) -> None:
    def fill(write: Callable[[bytes], object]) -> None:
        write(bytes(8192))

    fd = FileCache(tmp_path).open("k", 8192, fill)
    assert contents(fd) == bytes(8192)


@pytest.mark.parametrize(
    ("xdg", "home", "folder"),
    [
        ("/x", "/h", "/x/emu"),
        ("", "/h", "/h/.cache/emu"),
        ("relative", "/h", "/h/.cache/emu"),  # to be ignored, as the specification says
        ("", "", None),
    ],
)
def test_the_folder_is_the_users(
    monkeypatch: pytest.MonkeyPatch, xdg: str, home: str, folder: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", home)
    assert cache_folder() == folder
