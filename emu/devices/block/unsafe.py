"""cache=unsafe: a guest's FLUSH does not wait for the medium. For throw-away guests and benchmarks."""

from emu.devices.block.backend import BlockBackend


class UnsafeCache:
    """`backend` without its flush; closing flushes."""

    def __init__(self, backend: BlockBackend) -> None:
        self.size, self.read_only, self.costs = backend.size, backend.read_only, backend.costs
        self.readv, self.writev = backend.readv, backend.writev
        self.discard, self.write_zeroes = backend.discard, backend.write_zeroes
        self.close = backend.close

    def flush(self) -> None:
        """Nothing, at once."""
