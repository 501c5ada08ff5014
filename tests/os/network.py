"""Linux guests with a network card, and the host's end of their TCP streams."""

import hashlib
import queue
import random
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.os.debian import KERNELS, START, Debian
from tests.os.guest import LIMIT_S, Console

GENERIC: Final = r"^linux-image-6\.1\.[0-9]+-[0-9]+-amd64$"
"""The package of a kernel with the drivers of physical cards; the cloud kernels lack them."""
DRIVERS: Final = ("virtio_pci", "virtio_net", "af_packet", "e1000")
DHCP: Final = r"""#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig "$interface" "$ip" netmask "$subnet"
[ -n "$mtu" ] && ifconfig "$interface" mtu "$mtu" 2>/dev/null
route add default gw "$router"
echo "BOUND $ip $subnet $router"
"""
INIT: Final = f"{START}ifconfig lo 127.0.0.1 up\nexec setsid cttyhack sh\n"
STREAM: Final = Path(__file__).parent / "programs/built/stream.elf"
GATEWAY: Final = "10.0.2.2"
"""passt leads it to the host's loopback."""
OURS: Final = (sys.executable, "-m", "emu", "run")
MEMORY: Final = "512M"


def debian_with_network(version: str) -> Debian:
    """A kernel by its key in KERNELS, or GENERIC, with the drivers of network cards."""
    files = {"dhcp": DHCP.encode(), "bin/stream": STREAM.read_bytes()}
    return Debian(KERNELS.get(version, version), DRIVERS, INIT, files)


class NetGuest(Console):
    """A guest at its shell; `program` is `emu run` or QEMU, `flags` are its card's."""

    def __init__(self, program: Sequence[str], debian: Debian, *flags: str) -> None:
        words = [*program, "-m", MEMORY, "-kernel", debian.kernel, "-initrd", debian.initrd]
        words += ["-append", "console=ttyS0 panic=-1 quiet", *flags]
        super().__init__([*words, "-display", "none", "-serial", "stdio"])
        self.expect("# ")

    def dhcp(self) -> str:
        """Have the guest ask for its address; what it was told."""
        return self.ask("ifconfig eth0 up; udhcpc -i eth0 -n -q -t 20 -T 1 -s /dhcp")


class Received(NamedTuple):
    """What came by one connection."""

    length: int
    md5: str


class Far:
    """Two ports on the host's loopback, a thread each: `source` sends `data`, `sink` takes anything.

    `received` gets one entry a connection to the sink.
    """

    def __init__(self, size: int) -> None:
        self.data = random.Random(size).randbytes(size)
        self.received: queue.Queue[Received] = queue.Queue()
        self._servers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.source, self.sink = self._listen(self._send), self._listen(self._take)

    @property
    def md5(self) -> str:
        """Of the bytes that are sent."""
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    def _listen(self, serve: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        self._servers.append(server)
        self._threads.append(threading.Thread(target=self._serve, args=(server, serve)))
        self._threads[-1].start()
        return int(server.getsockname()[1])

    def _serve(self, server: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:  # closed
                return
            with line:
                line.settimeout(LIMIT_S)
                serve(line)

    def _send(self, line: socket.socket) -> None:
        line.sendall(self.data)

    def _take(self, line: socket.socket) -> None:
        length, total = 0, hashlib.md5(usedforsecurity=False)
        while piece := line.recv(1 << 20):
            length += len(piece)
            total.update(piece)
        self.received.put(Received(length, total.hexdigest()))

    def close(self) -> None:
        """End both threads."""
        for server in self._servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in self._threads:
            thread.join(LIMIT_S)
