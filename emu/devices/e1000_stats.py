"""The 82540EM's statistics: counters that a read clears. Source: SDM 13.7."""

from typing import Final

from emu.devices.e1000_spec import FCS, STATISTICS, STATISTICS_END

MPC, GPRC, BPRC, MPRC, GPTC = 0x4010, 0x4074, 0x4078, 0x407C, 0x4080
GORCL, GOTCL, RNBC, RUC, ROC = 0x4088, 0x4090, 0x40A0, 0x40A4, 0x40AC
TORL, TOTL, TPR, TPT, MPTC, BPTC = 0x40C0, 0x40C8, 0x40D0, 0x40D4, 0x40F0, 0x40F4
TSCTC, TSCTFC = 0x40F8, 0x40FC
PRC64, PTC64 = 0x405C, 0x40D8
LARGEST_OF_SIZE: Final = (64, 127, 255, 511, 1023)
"""Octets, FCS included, up to which PRC64 and its followers count; PRC1522 counts all longer ones."""

NAMES: Final = {
    0x4000: "CRCERRS",
    0x4004: "ALGNERRC",
    0x4008: "SYMERRS",
    0x400C: "RXERRC",
    0x4010: "MPC",
    0x4014: "SCC",
    0x4018: "ECOL",
    0x401C: "MCC",
    0x4020: "LATECOL",
    0x4028: "COLC",
    0x4030: "DC",
    0x4034: "TNCRS",
    0x4038: "SEC",
    0x403C: "CEXTERR",
    0x4040: "RLEC",
    0x4048: "XONRXC",
    0x404C: "XONTXC",
    0x4050: "XOFFRXC",
    0x4054: "XOFFTXC",
    0x4058: "FCRUC",
    0x405C: "PRC64",
    0x4060: "PRC127",
    0x4064: "PRC255",
    0x4068: "PRC511",
    0x406C: "PRC1023",
    0x4070: "PRC1522",
    0x4074: "GPRC",
    0x4078: "BPRC",
    0x407C: "MPRC",
    0x4080: "GPTC",
    0x4088: "GORCL",
    0x408C: "GORCH",
    0x4090: "GOTCL",
    0x4094: "GOTCH",
    0x40A0: "RNBC",
    0x40A4: "RUC",
    0x40A8: "RFC",
    0x40AC: "ROC",
    0x40B0: "RJC",
    0x40B4: "MGTPRC",
    0x40B8: "MGTPDC",
    0x40BC: "MGTPTC",
    0x40C0: "TORL",
    0x40C4: "TORH",
    0x40C8: "TOTL",
    0x40CC: "TOTH",
    0x40D0: "TPR",
    0x40D4: "TPT",
    0x40D8: "PTC64",
    0x40DC: "PTC127",
    0x40E0: "PTC255",
    0x40E4: "PTC511",
    0x40E8: "PTC1023",
    0x40EC: "PTC1522",
    0x40F0: "MPTC",
    0x40F4: "BPTC",
    0x40F8: "TSCTC",
    0x40FC: "TSCTFC",
}
WIDE: Final = frozenset({GORCL, GOTCL, TORL, TOTL})
"""64-bit counters: a read of the upper half clears both."""
MAX32, MAX64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF

MULTICAST_BIT: Final = 0x01
BROADCAST: Final = b"\xff" * 6


def _sizes() -> bytes:
    """By octets up to 1023: how far behind the first counter of its kind a frame's is."""
    table = bytearray()
    for index, largest in enumerate(LARGEST_OF_SIZE):
        table += bytes([index]) * (largest + 1 - len(table))
    return bytes(table)


_SIZES: Final = _sizes()


def size_counter(first: int, octets: int) -> int:
    """The counter of frames of that size; `first` is PRC64 or PTC64."""
    return first + 4 * (_SIZES[octets] if octets < len(_SIZES) else len(LARGEST_OF_SIZE))


class Statistics:
    """All counters, by their register's offset; the wide ones by that of their lower half."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All are zero."""
        self.counts = dict.fromkeys(range(STATISTICS, STATISTICS_END, 4), 0)

    def read(self, offset: int) -> int:
        """What the guest reads: narrow counters stick at their maximum, and start again from zero."""
        counts = self.counts
        if offset - 4 in WIDE:
            value = min(counts[offset - 4], MAX64) >> 32
            counts[offset - 4] = 0
            return value
        value = counts[offset]
        if offset in WIDE:
            return min(value, MAX64) & MAX32
        counts[offset] = 0
        return min(value, MAX32)

    def sent(self, octets: int, destination: bytes, frames: int = 1) -> None:
        """`frames` alike went out, each `octets` long without its FCS."""
        counts = self.counts
        octets += FCS
        counts[TPT] += frames
        counts[GPTC] += frames
        counts[TOTL] += octets * frames
        counts[GOTCL] += octets * frames
        counts[size_counter(PTC64, octets)] += frames
        if destination[0] & MULTICAST_BIT:
            counts[BPTC if destination == BROADCAST else MPTC] += frames

    def received(self, octets: int, destination: bytes) -> None:
        """A good frame for this station came, `octets` long without its FCS."""
        counts = self.counts
        octets += FCS
        counts[TPR] += 1
        counts[GPRC] += 1
        counts[TORL] += octets
        counts[GORCL] += octets
        counts[size_counter(PRC64, octets)] += 1
        if destination[0] & MULTICAST_BIT:
            counts[BPRC if destination == BROADCAST else MPRC] += 1

    def missed(self, octets: int) -> None:
        """A frame for this station came, and there was no room for it."""
        counts = self.counts
        counts[MPC] += 1
        counts[RNBC] += 1
        counts[TPR] += 1
        counts[TORL] += octets + FCS

    def oversized(self, octets: int) -> None:
        """A frame came that is longer than RCTL allows."""
        self.counts[ROC] += 1
        self.counts[TPR] += 1
        self.counts[TORL] += octets + FCS

    def add(self, counter: int) -> None:
        """Count one of anything else."""
        self.counts[counter] += 1
