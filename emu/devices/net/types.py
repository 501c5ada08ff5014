"""The contract between a network card and what it is plugged into."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from emu.bus.costs import Costs

MIN_FRAME: Final = 14
"""Bytes of an Ethernet header; a shorter frame is none."""
MAX_FRAME: Final = 65_550
"""Bytes of the longest frame, without a frame check sequence: 64 KiB of packet and its Ethernet header."""

Buffers = Sequence[memoryview]
"""A frame in pieces, as the guest's descriptors list them: destination address first, no FCS."""


Frame = bytes | bytearray | memoryview
"""A frame in one piece."""


class Offload(NamedTuple):
    """What is left to do on a frame. Source: VIRTIO 1.2, 5.1.6 (struct virtio_net_hdr).

    The checksum over the bytes from `csum_start` is to be stored at `csum_start + csum_offset`, where
    `needs_csum`. With a `gso_type` the frame is to be cut into segments of `gso_size` bytes of payload, each
    behind a copy of its first `hdr_len` bytes. On the way to the driver `data_valid` says that a checksum was
    looked at and is right.
    """

    needs_csum: bool = False
    csum_start: int = 0
    csum_offset: int = 0
    gso_type: int = 0
    gso_size: int = 0
    hdr_len: int = 0
    data_valid: bool = False


CHECKED: Final = Offload(data_valid=True)
"""Nothing is left to do on a frame whose checksum was found right."""


class NetBackend(Protocol):
    """The other end of a card's cable: passt, a stream socket, a tap, a switch, an echo.

    `send` and `receive` are called by the one thread that serves the card's queues; neither blocks. Frames
    for the guest wait in the backend (bounded, the surplus dropped and counted) until `receive` takes them.
    """

    @property
    def name(self) -> str:
        """For logs and tables."""

    @property
    def costs(self) -> Costs:
        """Spent below the card."""

    @property
    def fd(self) -> int | None:
        """A descriptor that becomes readable when frames wait; None where `on_ready` alone tells."""

    on_ready: Callable[[], None]
    """Set by whoever serves the card: called, on the thread that brings them, when frames wait after there
    were none. Backends with `fd` need not call it: whoever serves the card watches the descriptor."""

    on_link: Callable[[bool], None]
    """Set by the card: the cable was plugged in or pulled."""

    @property
    def link_up(self) -> bool:
        """False while nobody is at the other end."""

    @property
    def guest_features(self) -> int:
        """Which of NET_F_GUEST_CSUM, _TSO4, _TSO6 and _ECN `receive` makes use of."""

    def accept(self, features: int, /) -> None:
        """Which of them the driver accepted: such work may be `left` to it. None at first."""

    @property
    def left(self) -> Offload | None:
        """What is left to do on the frame that `receive` returned last."""

    def send(self, frame: Buffers, offload: Offload | None = None, /) -> None:
        """Take a frame from the guest, whole; a frame that cannot be taken now is dropped and counted.

        `offload` is what the guest left to do; the backend finishes it or hands it on.
        """

    def receive(self) -> bytes | bytearray | memoryview | None:
        """The next frame for the guest, None where none waits. A view is good until the next call."""

    def close(self) -> None:
        """Unplug; harmless when repeated."""
