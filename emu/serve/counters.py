"""What serving cost so far, in the page that front-ends read."""

from collections.abc import Callable

from emu.bus.costs import Costs
from emu.dataplanes.vhost_user.counters import CountersPage, read_counters

__all__ = ["Account", "read_counters"]


class Account:
    """The sum of `sources` in the file `path`, each time `flush` is called. Raises ConfigError."""

    def __init__(self, path: str, sources: list[Callable[[], Costs]]) -> None:
        self._page, self._sources = CountersPage(path), sources
        self.flush()

    def flush(self) -> None:
        """Bring the page up to date."""
        total = Costs()
        for source in self._sources:
            total = total.total(source())
        self._page.put(total)
