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
TYPE_FS: Final = 26

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

# network device, 5.1
NET_F_CSUM: Final = 1 << 0
NET_F_GUEST_CSUM: Final = 1 << 1
NET_F_CTRL_GUEST_OFFLOADS: Final = 1 << 2
NET_F_MTU: Final = 1 << 3
NET_F_MAC: Final = 1 << 5
NET_F_GUEST_TSO4: Final = 1 << 7
NET_F_GUEST_TSO6: Final = 1 << 8
NET_F_GUEST_ECN: Final = 1 << 9
NET_F_GUEST_UFO: Final = 1 << 10
NET_F_HOST_TSO4: Final = 1 << 11
NET_F_HOST_TSO6: Final = 1 << 12
NET_F_HOST_ECN: Final = 1 << 13
NET_F_HOST_UFO: Final = 1 << 14
NET_F_MRG_RXBUF: Final = 1 << 15
NET_F_STATUS: Final = 1 << 16
NET_F_CTRL_VQ: Final = 1 << 17
NET_F_CTRL_RX: Final = 1 << 18
NET_F_CTRL_VLAN: Final = 1 << 19
NET_F_CTRL_RX_EXTRA: Final = 1 << 20
NET_F_GUEST_ANNOUNCE: Final = 1 << 21
NET_F_MQ: Final = 1 << 22
NET_F_CTRL_MAC_ADDR: Final = 1 << 23
NET_S_LINK_UP: Final = 1
NET_S_ANNOUNCE: Final = 2
NET_HDR_F_NEEDS_CSUM: Final = 1
NET_HDR_F_DATA_VALID: Final = 2
NET_GSO_NONE: Final = 0
NET_GSO_TCPV4: Final = 1
NET_GSO_UDP: Final = 3
NET_GSO_TCPV6: Final = 4
NET_GSO_ECN: Final = 0x80
NET_HDR_SIZE: Final = 12
"""struct virtio_net_hdr with num_buffers, which VERSION_1 always has."""
NET_HDR_SIZE_LEGACY: Final = 10
"""Without it: neither VERSION_1 nor MRG_RXBUF (5.1.6.1)."""

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
