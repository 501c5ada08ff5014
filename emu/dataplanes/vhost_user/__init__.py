"""vhost-user: queues that another process serves. The protocol, and the VMM's end of it."""
