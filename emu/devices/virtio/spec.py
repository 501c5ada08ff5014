"""Numbers of the virtio specification, by its names. Source: VIRTIO 1.2, sections in each group."""

from typing import Final

# device status, 2.1
ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
DEVICE_NEEDS_RESET: Final = 64
FAILED: Final = 128

# feature bits, 6
F_RING_INDIRECT_DESC: Final = 1 << 28
F_RING_EVENT_IDX: Final = 1 << 29
F_VERSION_1: Final = 1 << 32

# split virtqueue, 2.7
DESC_F_NEXT: Final = 1
DESC_F_WRITE: Final = 2
DESC_F_INDIRECT: Final = 4
AVAIL_F_NO_INTERRUPT: Final = 1
USED_F_NO_NOTIFY: Final = 1
DESC_SIZE: Final = 16
MAX_QUEUE_SIZE: Final = 1024
"""The largest ring we offer (the specification allows 32768); also the most parts one host I/O call takes."""

# device types, 5
TYPE_NET: Final = 1
TYPE_BLK: Final = 2
TYPE_CONSOLE: Final = 3
TYPE_RNG: Final = 4
TYPE_BALLOON: Final = 5

# PCI transport, 4.1
PCI_VENDOR: Final = 0x1AF4
PCI_DEVICE_BASE: Final = 0x1040
PCI_REVISION: Final = 1
CAP_COMMON_CFG: Final = 1
CAP_NOTIFY_CFG: Final = 2
CAP_ISR_CFG: Final = 3
CAP_DEVICE_CFG: Final = 4
CAP_PCI_CFG: Final = 5
NO_VECTOR: Final = 0xFFFF
ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2

# block device, 5.2
BLK_F_SIZE_MAX: Final = 1 << 1
BLK_F_SEG_MAX: Final = 1 << 2
BLK_F_GEOMETRY: Final = 1 << 4
BLK_F_RO: Final = 1 << 5
BLK_F_BLK_SIZE: Final = 1 << 6
BLK_F_FLUSH: Final = 1 << 9
BLK_F_TOPOLOGY: Final = 1 << 10
BLK_F_CONFIG_WCE: Final = 1 << 11
BLK_F_MQ: Final = 1 << 12
BLK_F_DISCARD: Final = 1 << 13
BLK_F_WRITE_ZEROES: Final = 1 << 14
BLK_T_IN: Final = 0
BLK_T_OUT: Final = 1
BLK_T_FLUSH: Final = 4
BLK_T_GET_ID: Final = 8
BLK_T_DISCARD: Final = 11
BLK_T_WRITE_ZEROES: Final = 13
BLK_S_OK: Final = 0
BLK_S_IOERR: Final = 1
BLK_S_UNSUPP: Final = 2
BLK_ID_BYTES: Final = 20
BLK_UNMAP: Final = 1
"""Bit 0 of a discard or write-zeroes segment's flags."""
SECTOR: Final = 512

# console device, 5.3
CONSOLE_F_MULTIPORT: Final = 1 << 1
CONSOLE_F_EMERG_WRITE: Final = 1 << 2
CONSOLE_DEVICE_READY: Final = 0
CONSOLE_DEVICE_ADD: Final = 1
CONSOLE_PORT_READY: Final = 3
CONSOLE_CONSOLE_PORT: Final = 4
CONSOLE_PORT_OPEN: Final = 6
CONSOLE_PORT_NAME: Final = 7

# memory balloon, 5.5
BALLOON_F_STATS_VQ: Final = 1 << 1
BALLOON_F_DEFLATE_ON_OOM: Final = 1 << 2
BALLOON_F_REPORTING: Final = 1 << 5
BALLOON_PAGE: Final = 4096
