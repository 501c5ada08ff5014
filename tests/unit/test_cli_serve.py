"""`emu serve`: its help, and one line for everything that is wrong with a command line."""

import io
from pathlib import Path

import pytest

from emu.cli.main import main
from emu.cli.serve import run
from tests.serve_lab import make_disk, open_fds


def test_the_help_lists_the_kinds() -> None:
    out = io.StringIO()
    assert run(["--help"], out) == 0
    assert "vhost-user-blk  disks" in out.getvalue()
    assert run([], io.StringIO()) == 2


def test_a_kinds_help_lists_its_flags_but_the_hidden_one() -> None:
    out = io.StringIO()
    assert run(["vhost-user-blk", "--help"], out) == 0
    text = out.getvalue()
    for flag in ("--socket PATH", "--poll", "--num-queues N", "--counters FILE", "-drive file=FILE"):
        assert flag in text
    assert "while-fd" not in text


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("vhost-user-disk", '"vhost-user-disk" is no kind; the nearest is vhost-user-blk'),
        ("vhost-user-blk", "vhost-user-blk: no disk: give --drive file=FILE"),
        ("vhost-user-blk --drive file=D", "vhost-user-blk: nothing to listen at: give --socket PATH"),
        ("vhost-user-blk --drive format=raw", "vhost-user-blk: --drive: needs file=FILE"),
        ("vhost-user-blk --drive file=D,speed=9", 'vhost-user-blk: --drive: "speed" is not known here'),
        ("vhost-user-blk --socket S --drive file=none.img", "none.img: no such file; try"),
        ("vhost-user-blk --socket S --socket S --drive file=D", "--socket: S is there twice; each front-end"),
        (
            "vhost-user-blk --socket A --drive file=D --drive file=D",
            "2 drives for 1 sockets: give one, or one a",
        ),
        (
            "vhost-user-blk --socket D --drive file=D",
            "--socket D: it exists and is no socket; try another path",
        ),
        (
            "vhost-user-blk --socket S --drive file=D --num-queues 0",
            "--num-queues: num-queues is a number from 1 to 64, not 0",
        ),
        ("vhost-user-blk --socket S --drive file=D --while-fd 999", "--while-fd: 999: Bad file descriptor"),
        (
            "vhost-user-blk --socket S --drive file=D --counters no/c",
            "--counters no/c: No such file or directory",
        ),
        ("vhost-user-blk --socket S --drive file=D x", '"x": this kind takes flags only'),
        ("vhost-user-blk --pol", "--pol: no such flag; the nearest is -poll"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    fault: str,
) -> None:
    make_disk(tmp_path, "D")
    monkeypatch.chdir(tmp_path)
    before = open_fds()
    assert main(["serve", *words.split()]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("emu: serve")
    assert printed.count("\n") == 1
    assert fault in printed
    assert open_fds() == before
    assert [path.name for path in tmp_path.iterdir()] == ["D"]
