"""Virtio 1.2 devices: one queue, one device state machine, one PCI transport."""
