"""The local APIC's registers and bits by their names.

Source: Intel SDM volume 3 (325384), chapter 11 "APIC".
"""

from typing import Final

SIZE, DEFAULT_BASE = 4096, 0xFEE00000
VERSION = 0x00050014  # six LVT entries, an integrated APIC

# Register numbers: offset / 16
ID, VERSION_REG, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x32, 0x33, 0x34, 0x35, 0x36, 0x37
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x38, 0x39, 0x3E

SVR_ENABLED, SVR_BITS = 1 << 8, 0x3FF
LVT_MASKED, LVT_LEVEL = 1 << 16, 1 << 15
LVT_BITS: Final = {  # what can be written
    LVT_TIMER: 0x700FF,
    LVT_THERMAL: 0x107FF,
    LVT_PERF: 0x107FF,
    LVT_LINT0: 0x1A7FF,
    LVT_LINT1: 0x1A7FF,
    LVT_ERROR: 0x100FF,
}
FIXED, LOWEST_PRIORITY, NMI, EXTINT = 0, 1, 4, 7  # delivery mode, bits 10:8 everywhere
TRIGGER_LEVEL = 1 << 15  # in ICR and message data
ICR_BITS, ICR_LOGICAL = 0x000CCFFF, 1 << 11
TO_DESTINATION, TO_SELF, TO_ALL = 0, 1, 2  # ICR shorthand; 3 leaves self out
ESR_SEND_ILLEGAL, ESR_RECEIVE_ILLEGAL, ESR_ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7
FIRST_VECTOR = 16  # 0 to 15 are illegal
DFR_FLAT = 0xF

BASE_BSP, BASE_EXTD, BASE_ENABLE = 1 << 8, 1 << 10, 1 << 11  # IA32_APIC_BASE
BASE_ADDRESS = (1 << 40) - SIZE

NAMES: Final = {
    ID: "ID", VERSION_REG: "VERSION", TPR: "TPR", APR: "APR", PPR: "PPR", EOI: "EOI", LDR: "LDR", DFR: "DFR",
    SVR: "SVR", ESR: "ESR", ICR_LOW: "ICR_LOW", ICR_HIGH: "ICR_HIGH", LVT_TIMER: "LVT_TIMER",
    LVT_THERMAL: "LVT_THERMAL", LVT_PERF: "LVT_PERF", LVT_LINT0: "LVT_LINT0", LVT_LINT1: "LVT_LINT1",
    LVT_ERROR: "LVT_ERROR", TIMER_INITIAL: "TIMER_INITIAL", TIMER_CURRENT: "TIMER_CURRENT",
    TIMER_DIVIDE: "TIMER_DIVIDE",
    **{ISR + i: f"ISR{i}" for i in range(8)},
    **{TMR + i: f"TMR{i}" for i in range(8)},
    **{IRR + i: f"IRR{i}" for i in range(8)},
}  # fmt: skip
"""The SDM's name of each register, in the form used here."""
