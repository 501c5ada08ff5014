"""What makes a start short."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Modules and machines that are made meanwhile are no garbage, so nobody looks for any.

    Looking took a ninth of the time to the guest's first instruction. What is alive at the end is never
    looked at again, so this is for what lives as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
