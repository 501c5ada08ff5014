import contextlib
import socket
from pathlib import Path

import pytest

from emu.errors import ConfigError
from emu.listening import ListeningSocket


def test_a_client_comes_while_it_listens_and_the_file_goes_with_it(tmp_path: Path) -> None:
    listening = ListeningSocket(str(tmp_path / "s"), "--socket")
    with contextlib.closing(listening), socket.socket(socket.AF_UNIX) as client:
        client.connect(listening.path)
        listening.sock.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.sock.accept()
    assert list(tmp_path.iterdir()) == []
    listening.close()


def test_a_file_left_behind_gives_way(tmp_path: Path) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as gone:
            gone.bind(str(tmp_path / "s"))
        ListeningSocket(str(tmp_path / "s"), "--socket").close()


@pytest.mark.parametrize("listens", [True, False])
def test_a_socket_of_a_process_that_lives_is_left_alone_and_hears_nothing(
    tmp_path: Path, listens: bool
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        if listens:
            busy.listen()
        with pytest.raises(ConfigError, match=r"^--socket: another process listens there; try another path$"):
            ListeningSocket(str(path), "--socket")
        busy.listen()
        busy.setblocking(False)
        with pytest.raises(BlockingIOError):
            busy.accept()
        assert path.is_socket()


def test_a_datagram_socket_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy:
        busy.bind(str(tmp_path / "s"))
        with pytest.raises(ConfigError, match="another process listens there"):
            ListeningSocket(str(tmp_path / "s"), "--socket")


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"data")
    with pytest.raises(ConfigError, match=r"^--socket: it exists and is no socket; try another path$"):
        ListeningSocket(str(tmp_path / "s"), "--socket")
    assert (tmp_path / "s").read_bytes() == b"data"


def test_whoever_took_the_path_over_keeps_the_file(tmp_path: Path) -> None:
    listening = ListeningSocket(str(tmp_path / "s"), "--socket")
    (tmp_path / "s").rename(tmp_path / "old")
    with contextlib.closing(ListeningSocket(str(tmp_path / "s"), "--socket")):
        listening.close()
        assert (tmp_path / "s").is_socket()
