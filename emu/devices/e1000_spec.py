"""Registers and bits of the 82540EM.

Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, chapter 13
(registers), 3.2 and 3.3 (descriptors); its numbers are given as "SDM 13.4.x". Names are the manual's.
"""

from typing import Final, NamedTuple

BAR_SIZE: Final = 0x2_0000
IO_SIZE: Final = 0x40
IOADDR, IODATA = 0, 4
REGISTER_SPACE: Final = 0x6000
"""Offsets from here on read as zero and ignore writes, but for the packet buffer, which is not modelled."""

CTRL, STATUS, EECD, EERD, CTRL_EXT, FLA, MDIC = 0x00, 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20
FCAL, FCAH, FCT, VET = 0x28, 0x2C, 0x30, 0x38
ICR, ITR, ICS, IMS, IMC = 0xC0, 0xC4, 0xC8, 0xD0, 0xD8
RCTL, FCTTV, TXCW, RXCW = 0x100, 0x170, 0x178, 0x180
TCTL, TIPG, AIT, LEDCTL, PBA = 0x400, 0x410, 0x458, 0xE00, 0x1000
FCRTL, FCRTH = 0x2160, 0x2168
RDFH, RDFT, RDFHS, RDFTS, RDFPC = 0x2410, 0x2418, 0x2420, 0x2428, 0x2430
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
RDTR, RXDCTL, RADV, RSRPD = 0x2820, 0x2828, 0x282C, 0x2C00
TXDMAC, TDFH, TDFT, TDFHS, TDFTS, TDFPC = 0x3000, 0x3410, 0x3418, 0x3420, 0x3428, 0x3430
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
TIDV, TXDCTL, TADV, TSPMT = 0x3820, 0x3828, 0x382C, 0x3830
STATISTICS, STATISTICS_END = 0x4000, 0x4100
RXCSUM, MTA, RA, VFTA = 0x5000, 0x5200, 0x5400, 0x5600
WUC, WUFC, WUS, MANC = 0x5800, 0x5808, 0x5810, 0x5820
IPAV, IP4AT, IP6AT, WUPL, WUPM, FFLT = 0x5838, 0x5840, 0x5880, 0x5900, 0x5A00, 0x5F00
MTA_WORDS, RA_PAIRS, VFTA_WORDS = 128, 16, 128

CTRL_FD, CTRL_SLU, CTRL_SPEED_1000 = 1 << 0, 1 << 6, 2 << 8
CTRL_SWDPIN0, CTRL_SWDPIN2 = 1 << 18, 1 << 20
CTRL_RST, CTRL_VME, CTRL_PHY_RST = 1 << 26, 1 << 30, 1 << 31
CTRL_RESET: Final = CTRL_SWDPIN2 | CTRL_SWDPIN0 | CTRL_SPEED_1000 | CTRL_SLU
CTRL_EXT_EE_RST: Final = 1 << 13

STATUS_LU: Final = 1 << 1
STATUS_FIXED: Final = 0x0781
"""Full duplex, 1000 Mb/s by SPEED and by ASDV, transmit clock present."""

EECD_SK, EECD_CS, EECD_DI, EECD_DO = 1 << 0, 1 << 1, 1 << 2, 1 << 3
EECD_FWE, EECD_REQ, EECD_GNT, EECD_PRES = 3 << 4, 1 << 6, 1 << 7, 1 << 8
EERD_START, EERD_DONE = 1 << 0, 1 << 4

MDIC_WRITE, MDIC_READ = 1, 2
MDIC_READY, MDIC_INTERRUPT, MDIC_ERROR = 1 << 28, 1 << 29, 1 << 30

ICR_TXDW, ICR_TXQE, ICR_LSC, ICR_RXDMT0 = 1 << 0, 1 << 1, 1 << 2, 1 << 4
ICR_RXO, ICR_RXT0, ICR_MDAC, ICR_TXD_LOW, ICR_SRPD = 1 << 6, 1 << 7, 1 << 9, 1 << 15, 1 << 16

RCTL_EN, RCTL_SBP, RCTL_UPE, RCTL_MPE, RCTL_LPE = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
RCTL_LBM, RCTL_BAM, RCTL_VFE = 3 << 6, 1 << 15, 1 << 18
RCTL_CFIEN, RCTL_CFI, RCTL_DPF = 1 << 19, 1 << 20, 1 << 22
RCTL_BSEX, RCTL_SECRC = 1 << 25, 1 << 26
RCTL_RDMTS_SHIFT, RCTL_MO_SHIFT, RCTL_BSIZE_SHIFT = 8, 12, 16
RAH_AV, RAH_SOURCE = 1 << 31, 1 << 16
DELAY_FPD: Final = 1 << 31
TCTL_EN, TCTL_PSP = 1 << 1, 1 << 3
RXCSUM_IPOFLD, RXCSUM_TUOFLD = 1 << 8, 1 << 9

TXD_EOP, TXD_IFCS, TXD_IC, TXD_TSE = 1 << 0, 1 << 1, 1 << 2, 1 << 2  # IC: legacy, TSE: extended
TXD_RS, TXD_RPS, TXD_DEXT, TXD_VLE, TXD_IDE = 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7
TXD_DD: Final = 1 << 32
LWTHRESH_SHIFT: Final = 25
"""Of TXDCTL: descriptors, in eights."""
TUCMD_TCP, TUCMD_IP = 1 << 0, 1 << 1
POPTS_IXSM, POPTS_TXSM = 1 << 0, 1 << 1
DTYP_CONTEXT, DTYP_DATA = 0, 1

RXD_DD, RXD_EOP, RXD_IXSM, RXD_VP = 1 << 0, 1 << 1, 1 << 2, 1 << 3
RXD_TCPCS, RXD_IPCS, RXD_PIF = 1 << 5, 1 << 6, 1 << 7
RXD_TCPE, RXD_IPE = 1 << 13, 1 << 14
"""Of the descriptor's status byte, and of its errors byte eight bits higher."""

FCS: Final = 4
MIN_WIRE: Final = 60
"""Bytes of the shortest frame, without its FCS."""
MAX_PLAIN, MAX_LONG = 1522, 16_384
"""Bytes of the longest frame without and with RCTL.LPE, its FCS included."""


class Plain(NamedTuple):
    """A register, or `number` of them, that keeps what is written under `mask`."""

    offset: int
    name: str
    mask: int = 0xFFFF_FFFF
    reset: int = 0
    number: int = 1


PLAIN: Final = (
    Plain(CTRL, "CTRL", 0xFFFF_FFFF & ~(CTRL_RST | CTRL_PHY_RST), CTRL_RESET),
    Plain(STATUS, "STATUS", 0),
    Plain(EECD, "EECD", 0),
    Plain(EERD, "EERD", 0),
    Plain(CTRL_EXT, "CTRL_EXT", 0xFFFF_FFFF & ~CTRL_EXT_EE_RST),
    Plain(FLA, "FLA", 0),
    Plain(MDIC, "MDIC", 0),
    Plain(FCAL, "FCAL"),
    Plain(FCAH, "FCAH", 0xFFFF),
    Plain(FCT, "FCT", 0xFFFF),
    Plain(VET, "VET", reset=0x8100),
    Plain(ICR, "ICR", 0),
    Plain(ITR, "ITR", 0xFFFF),
    Plain(ICS, "ICS", 0),
    Plain(IMS, "IMS", 0),
    Plain(IMC, "IMC", 0),
    Plain(RCTL, "RCTL"),
    Plain(FCTTV, "FCTTV", 0xFFFF),
    Plain(TXCW, "TXCW"),
    Plain(RXCW, "RXCW", 0),
    Plain(TCTL, "TCTL"),
    Plain(TIPG, "TIPG", reset=0x0060_2008),
    Plain(AIT, "AIT", 0xFFFF),
    Plain(LEDCTL, "LEDCTL", reset=0x0706_8302),
    Plain(PBA, "PBA", reset=0x0010_0030),
    Plain(FCRTL, "FCRTL"),
    Plain(FCRTH, "FCRTH"),
    Plain(RDFH, "RDFH", 0x1FFF),
    Plain(RDFT, "RDFT", 0x1FFF),
    Plain(RDFHS, "RDFHS", 0x1FFF),
    Plain(RDFTS, "RDFTS", 0x1FFF),
    Plain(RDFPC, "RDFPC", 0x1FFF),
    Plain(RDBAL, "RDBAL", 0xFFFF_FFF0),
    Plain(RDBAH, "RDBAH"),
    Plain(RDLEN, "RDLEN", 0x000F_FF80),
    Plain(RDH, "RDH", 0),
    Plain(RDT, "RDT", 0xFFFF),
    Plain(RDTR, "RDTR", 0xFFFF),
    Plain(RXDCTL, "RXDCTL", reset=0x0101_0000),
    Plain(RADV, "RADV", 0xFFFF),
    Plain(RSRPD, "RSRPD", 0x0FFF),
    Plain(TXDMAC, "TXDMAC", 1),
    Plain(TDFH, "TDFH", 0x07FF),
    Plain(TDFT, "TDFT", 0x07FF),
    Plain(TDFHS, "TDFHS", 0x1FFF),
    Plain(TDFTS, "TDFTS", 0x1FFF),
    Plain(TDFPC, "TDFPC", 0x1FFF),
    Plain(TDBAL, "TDBAL", 0xFFFF_FFF0),
    Plain(TDBAH, "TDBAH"),
    Plain(TDLEN, "TDLEN", 0x000F_FF80),
    Plain(TDH, "TDH", 0),
    Plain(TDT, "TDT", 0xFFFF),
    Plain(TIDV, "TIDV", 0xFFFF),
    Plain(TXDCTL, "TXDCTL"),
    Plain(TADV, "TADV", 0xFFFF),
    Plain(TSPMT, "TSPMT", reset=0x0100_0400),
    Plain(RXCSUM, "RXCSUM", 0x07FF),
    Plain(MTA, "MTA", number=MTA_WORDS),
    Plain(RA, "RA", number=2 * RA_PAIRS),
    Plain(VFTA, "VFTA", number=VFTA_WORDS),
    Plain(WUC, "WUC"),
    Plain(WUFC, "WUFC"),
    Plain(WUS, "WUS"),
    Plain(MANC, "MANC", 0, 0x0022_2300),
    Plain(IPAV, "IPAV"),
    Plain(IP4AT, "IP4AT", number=7),
    Plain(IP6AT, "IP6AT", number=4),
    Plain(WUPL, "WUPL", 0),
    Plain(WUPM, "WUPM", number=32),
    Plain(FFLT, "FFLT", 0x07FF, number=7),
)
"""Every register with its name; those that do more have their own code, in `emu.devices.e1000`."""


def receive_buffer_size(rctl: int) -> int:
    """Bytes of each receive buffer by RCTL.BSIZE and BSEX. Source: SDM 13.4.22."""
    size = 2048 >> (rctl >> RCTL_BSIZE_SHIFT & 3)
    return size * 16 if rctl & RCTL_BSEX and size < 2048 else size
