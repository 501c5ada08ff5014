"""Which frames are for this station. Source: SDM 13.4.22 (RCTL), 13.5 (MTA, RAL, RAH), 9.3 (VFTA)."""

from collections.abc import Sequence
from typing import Final

from emu.devices.e1000_spec import (
    MTA,
    RA,
    RA_PAIRS,
    RAH_AV,
    RAH_SOURCE,
    RCTL_BAM,
    RCTL_CFI,
    RCTL_CFIEN,
    RCTL_MO_SHIFT,
    RCTL_MPE,
    RCTL_UPE,
    RCTL_VFE,
    VFTA,
)
from emu.devices.e1000_stats import BROADCAST, MULTICAST_BIT

REFUSED, EXACT, INEXACT = 0, 1, 2
REMEMBERED: Final = 256
HASH_SHIFTS: Final = (4, 3, 2, 0)
"""How far bytes 4 and 5 of an address go right, by RCTL.MO, to give 12 bits."""


class Filter:
    """Judges destinations by the registers `values` (by offset / 4); asked again only after a change."""

    def __init__(self, values: Sequence[int]) -> None:
        self._values = values
        self.rctl = 0
        self._known: dict[bytes, int] = {}

    def forget(self) -> None:
        """RCTL, MTA, RAL or RAH have changed."""
        self._known.clear()

    def judge(self, destination: bytes) -> int:
        """REFUSED, EXACT where an address matched or it is broadcast, INEXACT where software has to look."""
        verdict = self._known.get(destination)
        if verdict is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            verdict = self._known[destination] = self._look(destination)
        return verdict

    def _look(self, destination: bytes) -> int:
        if destination == BROADCAST and self.rctl & RCTL_BAM:
            return EXACT
        if destination in self._addresses():
            return EXACT
        if not destination[0] & MULTICAST_BIT:
            return INEXACT if self.rctl & RCTL_UPE else REFUSED
        if self.rctl & RCTL_MPE or self._hash_matches(destination):
            return INEXACT
        return REFUSED

    def _addresses(self) -> set[bytes]:
        found = set()
        for pair in range(RA_PAIRS):
            low, high = self._values[(RA >> 2) + 2 * pair : (RA >> 2) + 2 * pair + 2]
            if high & RAH_AV and not high & RAH_SOURCE:
                found.add((low | (high & 0xFFFF) << 32).to_bytes(6, "little"))
        return found

    def _hash_matches(self, destination: bytes) -> bool:
        upper = destination[4] | destination[5] << 8
        bit = upper >> HASH_SHIFTS[self.rctl >> RCTL_MO_SHIFT & 3] & 0xFFF
        return bool(self._values[(MTA >> 2) + (bit >> 5)] >> (bit & 31) & 1)

    def takes_vlan(self, tag: int) -> bool:
        """A tagged frame: the VLAN filter, and the rule for its CFI bit."""
        rctl = self.rctl
        if not rctl & RCTL_VFE:
            return True
        if rctl & RCTL_CFIEN and bool(tag & 0x1000) != bool(rctl & RCTL_CFI):
            return False
        return bool(self._values[(VFTA >> 2) + (tag >> 5 & 0x7F)] >> (tag & 31) & 1)
