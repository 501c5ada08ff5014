"""passt: the host's network for a guest, without any right; a process of its own beside the VMM."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Final

from emu.devices.net.stream import StreamPeer, enlarge
from emu.devices.net.verify import ipv4_end
from emu.errors import ConfigError

ADDRESS, NETMASK, GATEWAY = "10.0.2.15", "24", "10.0.2.2"
"""What QEMU's user network gives its first guest; the gateway's address is the host's loopback."""
MTU: Final = 65520
PATIENCE_S: Final = 5
PADDED: Final = 64
"""Bytes up to which a frame may have padding at its end."""


class Passt(StreamPeer):
    """A `NetBackend`: a passt of its own, which ends with it. Raises ConfigError where there is none.

    `forwards` are host ports that lead to the guest's: ("tcp", host port, guest port).
    """

    def __init__(
        self, name: str, forwards: Sequence[tuple[str, int, int]] = (), *, patience_ms: int = 0
    ) -> None:
        program = shutil.which("passt")
        if program is None:
            raise ConfigError(f"{name}: passt is not installed; install the package passt")
        for kind, port, _ in forwards:
            check_port(name, kind, port)
        ours, theirs = socket.socketpair()
        enlarge(theirs)
        words = [program, "--foreground", "--quiet", "--fd", str(theirs.fileno()), "--mtu", str(MTU)]
        words += ["--address", ADDRESS, "--netmask", NETMASK, "--gateway", GATEWAY]
        words += ["--log-file", "/dev/null"]
        for flag, kind in (("-t", "tcp"), ("-u", "udp")):
            ports = [f"{host}:{guest}" for each, host, guest in forwards if each == kind]
            words += [flag, ",".join(ports) or "none"]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    words,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise ConfigError(f"{name}: {program}: {error.strerror}") from None
        super().__init__(ours, name, takes_large=True, patience_ms=patience_ms)

    def _send(self, pieces: list[memoryview | bytes | bytearray], length: int) -> None:
        """One frame, without Ethernet's padding: passt of 2023 takes it for data of the TCP packet."""
        if length <= PADDED:
            frame = unpadded(b"".join(pieces))
            pieces, length = [frame], len(frame)
        super()._send(pieces, length)

    def close(self) -> None:
        """See `NetBackend`. passt ends when its connection does."""
        super().close()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def check_port(name: str, kind: str, port: int) -> None:
    """Raise ConfigError for a port of the host that cannot be had: passt says nothing of it."""
    tcp = kind == "tcp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as probe:
        if tcp:  # connections that have ended are no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigError(f"{name}: hostfwd={kind}::{port}: {error.strerror}; try another port") from None


def unpadded(frame: bytes) -> bytes:
    """An Ethernet frame up to the end of its IPv4 packet; any other frame as it is."""
    end = ipv4_end(frame)
    return frame[:end] if end else frame
