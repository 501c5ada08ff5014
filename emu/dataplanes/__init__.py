"""Where a virtio queue is served: inline, I/O thread, vhost worker. Imports bus and devices."""
