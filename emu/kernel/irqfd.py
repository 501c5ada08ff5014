"""irqfd: a signalled event becomes an interrupt message at once, in the signalling thread (KVM_IRQFD).

In the kernel an eventfd's waiter is a function; here it is the consumer bound to the `EventFd`: signal ->
`MsiTarget.send`, with no file descriptor, system call or VMM code between.
"""

import functools

from emu.bus.eventfd import EventFd
from emu.bus.types import MsiTarget


def bind_irqfd(event: EventFd, target: MsiTarget, address: int, data: int) -> None:
    """Let `event` send this message from now on; undone by binding another consumer."""
    event.bind(functools.partial(target.send, address, data))
