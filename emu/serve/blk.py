"""vhost-user-blk: a disk for each front-end, on one medium or on several."""

from collections.abc import Mapping
from types import MappingProxyType

from emu.devices.block.backend import BlockBackend
from emu.devices.virtio.blk import VirtioBlk
from emu.serve.types import OpenDevice, Request64, ServedDevice, Wake

QUEUE_SIZE = 128
"""What front-ends make their rings by default; it bounds the segments of a request (seg_max)."""


class ServedBlk(VirtioBlk):
    """A front-end's view of a medium that stays open when it goes."""

    unused_protocol_features = 0
    own_requests: Mapping[int, Request64] = MappingProxyType({})

    def close(self) -> None:
        """Nothing is the front-end's own."""


def blk_devices(backend: BlockBackend, queues: int) -> OpenDevice:
    """What makes a front-end's disk. Raises ConfigError for a number of queues that cannot be."""
    ServedBlk(backend, queues=queues, queue_size=QUEUE_SIZE)

    def open_device(_wake: Wake) -> ServedDevice:
        return ServedBlk(backend, queues=queues, queue_size=QUEUE_SIZE)

    return open_device
