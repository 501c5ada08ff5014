"""Back-ends that nobody of us wrote, as processes: qemu-storage-daemon, virtiofsd, dpdk-testpmd.

The first two get a socket that listens already, so that nobody waits for it; the third makes its own.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STORAGE_DAEMON = "qemu-storage-daemon"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
TESTPMD = "dpdk-testpmd"
LIMIT_S = 30


@contextlib.contextmanager
def listening(path: Path) -> Iterator[int]:
    """A socket that listens at `path`; its descriptor, for a child."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock.fileno()
    path.unlink(missing_ok=True)  # who was given it may have removed it


@contextlib.contextmanager
def process(
    words: Sequence[str], *fds: int, stderr: int = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process until the end of the block."""
    with subprocess.Popen(
        words, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
    ) as child:
        try:
            yield child
        finally:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()


@contextlib.contextmanager
def storage_daemon(disk: Path, path: Path, queues: int = 1) -> Iterator[None]:
    """qemu-storage-daemon with one vhost-user-blk export of `disk`."""
    with listening(path) as fd:
        export = f"type=vhost-user-blk,id=e0,node-name=d0,addr.type=fd,addr.str={fd},writable=on"
        words = [STORAGE_DAEMON, "--blockdev", f"driver=file,node-name=f0,filename={disk}"]
        words += [
            "--blockdev",
            "driver=raw,node-name=d0,file=f0",
            "--export",
            f"{export},num-queues={queues}",
        ]
        with process(words, fd):
            yield


@contextlib.contextmanager
def virtiofsd(folder: Path, path: Path) -> Iterator[None]:
    """virtiofsd with one shared folder; it serves one connection."""
    with listening(path) as fd:
        words = [VIRTIOFSD, f"--fd={fd}", "-o", f"source={folder}", "-o", "sandbox=namespace", "-f"]
        if os.geteuid():
            words = ["unshare", "-Ur", *words]
        with process(words, fd):
            yield


@contextlib.contextmanager
def dpdk_testpmd(path: Path, *, connects: bool = False) -> Iterator[None]:
    """dpdk-testpmd that answers ARP and ping for every address; it polls, so it needs a core.

    It listens at `path`, or connects, again and again until somebody listens there.
    """
    words = [TESTPMD, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--lcores=(0,1)@(0,1)"]
    words += [
        f"--file-prefix=emu{os.getpid()}",
        "--vdev",
        f"net_vhost0,iface={path},queues=1,client={int(connects)}",
        "--",
    ]
    words += ["--forward-mode=icmpecho", "--auto-start", "--stats-period=2", "--total-num-mbufs=4096"]
    with process([*words, "--no-mlockall"], stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        said, deadline = b"", time.monotonic() + LIMIT_S
        while not connects and b"binding succeeded" not in said:
            assert select.select([child.stderr], [], [], max(0, deadline - time.monotonic()))[0], said
            piece = os.read(child.stderr.fileno(), 65536)
            assert piece, said
            said += piece
        yield
