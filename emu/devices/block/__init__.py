"""Disk images behind one contract, shared by IDE, virtio-blk and what comes later."""
