"""`-chardev socket` with devices that another process serves: what flags mean, one line for each error."""

import socket
from pathlib import Path

import pytest

from emu.config import MachineConfig
from tests.cli_lab import command
from tests.unit.test_cli_flags import machine, refused

IMAGE = Path(__file__).resolve().parents[2] / "guest-images/built/hello.elf"
BLK = ("-device", "vhost-user-blk-pci,chardev=c")
REFUSALS = {
    "null,id=c": "-device vhost-user-blk-pci: chardev c is no socket; give -chardev socket,id=c,path=PATH",
    "socket,id=d,path=s": "-device vhost-user-blk-pci: no -chardev has id=c; there is d",
    "socket,id=c": "-chardev: path= belongs to the backends file and socket, which need it",
}


def wired(chardev: str) -> MachineConfig:
    return machine("k.elf", "-chardev", chardev, *BLK)


def test_the_back_end_listens_unless_the_machine_does() -> None:
    for words, listening in (
        ("", ()),
        (",server=off", ()),
        (",server=on", ("c",)),
        (",server,wait=off", ("c",)),
    ):
        config = wired(f"socket,id=c,path=a,,server=on,,b{words}")
        assert config.sockets == {"c": "a,server=on,b"}
        assert config.listening == listening
        assert config.chardevs == {}


@pytest.mark.parametrize("chardev", REFUSALS)
def test_a_chardev_that_is_no_way_to_a_back_end_is_one_line(chardev: str) -> None:
    assert refused("k.elf", "-chardev", chardev, *BLK) == REFUSALS[chardev]


def started(path: Path, *more: str) -> str:
    """What the command says, which must fail at its start."""
    done = command("run", str(IMAGE), "-chardev", f"socket,id=c,path={path}{''.join(more)}", *BLK)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_socket_that_is_none_is_one_line(tmp_path: Path) -> None:
    assert "no back-end: No such file or directory; start it first" in started(tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"")
    assert "no back-end: Connection refused; start it first" in started(tmp_path / "file")
    assert "no back-end: AF_UNIX path too long" in started(tmp_path / ("long" * 40))


def test_a_place_where_the_machine_cannot_listen_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "it exists and is no socket" in started(tmp_path / "file", ",server=on")
    assert "No such file or directory" in started(tmp_path / "no/folder", ",server=on")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        assert "another process listens there" in started(tmp_path / "taken", ",server=on")


def test_a_peer_that_says_nothing_is_one_line_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert "the peer sent no message in time" in started(tmp_path / "s")
