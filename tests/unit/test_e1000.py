"""The 82540EM's registers, EEPROM, PHY, interrupts and link, as a driver sees them."""

from collections.abc import Iterator

import pytest

from emu.bus.mmio import MmioBus
from emu.bus.pci import PciBus
from emu.bus.pio import PioBus
from emu.bus.types import AccessError
from emu.bus.window import FaultLog
from emu.devices import e1000_spec as spec
from emu.devices.e1000 import E1000
from emu.devices.e1000_phy import AUTONEG_NS
from emu.errors import ConfigError
from emu.testing.e1000_driver import MAC, PEER, Cable, E1000Driver

FRAME = MAC + PEER + b"\x88\xb5" + bytes(range(100))
BMCR_RESTART, BMCR_RESET = 0x1340, 0x9140
ALL = 0xFFFF_FFFF


@pytest.fixture
def driver() -> Iterator[E1000Driver]:
    driver = E1000Driver()
    yield driver
    driver.close()


def phy_read(driver: E1000Driver, register: int) -> int:
    driver.write(spec.MDIC, spec.MDIC_READ << 26 | 1 << 21 | register << 16)
    answer = driver.read(spec.MDIC)
    assert answer & spec.MDIC_READY
    assert not answer & spec.MDIC_ERROR
    return answer & 0xFFFF


def phy_write(driver: E1000Driver, register: int, value: int) -> None:
    driver.write(spec.MDIC, spec.MDIC_WRITE << 26 | 1 << 21 | register << 16 | value)


class Microwire:
    """The EEPROM's pins, moved one by one."""

    def __init__(self, driver: E1000Driver) -> None:
        self.driver = driver

    def select(self, on: bool) -> None:
        self.driver.write(spec.EECD, spec.EECD_CS if on else 0)

    def shift(self, bits: int, count: int) -> int:
        """Clock bits out, the highest first; what came in meanwhile."""
        came = 0
        for i in reversed(range(count)):
            data = spec.EECD_CS | (spec.EECD_DI if bits >> i & 1 else 0)
            self.driver.write(spec.EECD, data)
            self.driver.write(spec.EECD, data | spec.EECD_SK)
            came = came << 1 | bool(self.driver.read(spec.EECD) & spec.EECD_DO)
            self.driver.write(spec.EECD, data)
        return came

    def command(self, bits: int, data: int | None = None) -> int:
        """Start bit, opcode and address, then 16 bits of data either way."""
        self.select(True)
        self.shift(0b100 << 6 | bits, 9)
        came = self.shift(data or 0, 16) if data is not None or bits >> 6 == 2 else 0
        self.select(False)
        return came


# ---- identity and registers ------------------------------------------------------------------------


def test_the_function_is_an_82540em_with_two_windows_and_inta(driver: E1000Driver) -> None:
    config = driver.card.function.config
    assert (config.get(0, 4), config.get(8, 4), config.get(0x2C, 4)) == (
        0x100E_8086,
        0x0200_0003,
        0x1100_1AF4,
    )
    assert config.get(0x3D, 1) == 1
    driver.card.function.config_write(0x10, 4, ALL)
    driver.card.function.config_write(0x14, 4, ALL)
    assert (config.get(0x10, 4), config.get(0x14, 4)) == (0xFFFE_0000, 0xFFFF_FFC1)


def test_registers_are_found_through_both_bars() -> None:
    driver = E1000Driver()
    faults = FaultLog(lambda _line: None)
    mmio, pio = MmioBus(faults, _fail), PioBus(faults, _fail)
    bus = PciBus(mmio, pio)
    bus.add(driver.card.function, 3)
    for offset, value in ((0x10, 0xFEBC_0000), (0x14, 0xC000), (4, 7)):
        driver.card.function.config_write(offset, 4, value)
    hot = mmio.areas([])[0]
    hot.write(0, 0xFEBC_0000 + spec.TIPG - hot.base, 4, 0x123, 0)
    pio.write(0, 0xC000, 4, spec.TIPG)
    assert pio.read(0, 0xC004, 4) == 0x123
    pio.write(0, 0xC004, 4, 0x456)
    assert hot.read(0, 0xFEBC_0000 + spec.TIPG - hot.base, 4, 0) == 0x456
    pio.write(0, 0xC000, 4, 0x8_0000)
    assert (pio.read(0, 0xC000, 4), pio.read(0, 0xC004, 4)) == (0x8_0000, 0)
    driver.close()


def _fail(error: BaseException) -> None:
    raise error


def test_every_offset_answers_and_only_whole_registers_are_written(driver: E1000Driver) -> None:
    for offset in range(0, spec.BAR_SIZE, 4):
        driver.read(offset)
        driver.write(offset, 0)
    driver.write(spec.TIPG, 0x1234_5678)
    assert (driver.card.read(spec.TIPG + 1, 1), driver.card.read(spec.TIPG + 2, 2)) == (0x56, 0x1234)
    with pytest.raises(AccessError):
        driver.card.write(spec.TIPG, 2, 0)


def test_registers_have_the_manuals_names(driver: E1000Driver) -> None:
    names = [
        driver.card.register_name(at, True) for at in (0x3818, 0xC0, 0x5408, 0x540C, 0x5204, 0x4074, 0x1C00)
    ]
    assert names == ["TDT", "ICR", "RAL1", "RAH1", "MTA[1]", "GPRC", "0x1c00"]
    assert [driver.card.io.register_name(at, False) for at in (0, 4)] == ["IOADDR", "IODATA"]


def test_a_mac_has_six_bytes(driver: E1000Driver) -> None:
    with pytest.raises(ConfigError, match="6 bytes, not 5"):
        E1000(driver.memory, driver.clock, Cable(), bytes(5), driver.posted.append)


def test_a_device_reset_forgets_all_but_pci_and_the_address(driver: E1000Driver) -> None:
    driver.start()
    driver.cable.offer(FRAME)
    driver.run()
    driver.write(spec.IMS, spec.ICR_RXT0)
    driver.write(spec.RA, 0x1234)
    assert driver.line.level
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_RST)
    assert not driver.line.level
    assert [driver.read(at) for at in (spec.CTRL, spec.RCTL, spec.RDLEN, spec.RDT, spec.IMS, spec.ICR)] == [
        spec.CTRL_RESET, 0, 0, 0, 0, 0,
    ]  # fmt: skip
    assert driver.read(spec.RA) == int.from_bytes(MAC[:4], "little")
    assert driver.read(0x4074) == 0
    assert driver.card.function.bus_master
    assert driver.read(spec.STATUS) & spec.STATUS_LU


def test_the_bus_reset_takes_the_phy_along(driver: E1000Driver) -> None:
    phy_write(driver, 4, 0x0001)
    driver.write(spec.CTRL, spec.CTRL_RST)
    assert phy_read(driver, 4) == 0x0001
    driver.card.function.reset()
    assert phy_read(driver, 4) == 0x0DE1
    assert not driver.card.receiver.ring.allowed


@pytest.mark.parametrize("at", [spec.RDH, spec.TDH, spec.RDT, spec.TDT])
def test_a_ring_s_head_and_tail_have_16_bits(driver: E1000Driver, at: int) -> None:
    driver.write(at, 0x12345)
    assert driver.read(at) == 0x2345


# ---- EEPROM ----------------------------------------------------------------------------------------


def test_the_eeprom_reads_alike_bit_by_bit_and_by_eerd_and_its_sum_is_right(driver: E1000Driver) -> None:
    wire, words = Microwire(driver), []
    assert driver.read(spec.EECD) & (spec.EECD_PRES | spec.EECD_GNT) == spec.EECD_PRES | spec.EECD_GNT
    for at in range(64):
        driver.write(spec.EERD, at << 8 | spec.EERD_START)
        answer = driver.read(spec.EERD)
        assert answer & spec.EERD_DONE
        words.append(answer >> 16)
        assert wire.command(2 << 6 | at) == words[-1]
    assert sum(words) & 0xFFFF == 0xBABA
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    assert words[0x0D] == 0x100E


def test_an_eeprom_read_goes_on_to_the_next_word(driver: E1000Driver) -> None:
    wire = Microwire(driver)
    wire.select(True)
    wire.shift(0b110 << 6 | 0x3F, 9)
    assert wire.shift(0, 32) == driver.card.eeprom.words[0x3F] << 16 | driver.card.eeprom.words[0]


def test_eeprom_words_change_only_once_writing_is_enabled(driver: E1000Driver) -> None:
    wire = Microwire(driver)
    wire.command(1 << 6 | 5, 0xABCD)
    assert wire.command(2 << 6 | 5) == 0
    wire.command(0b11 << 4)  # EWEN
    wire.command(1 << 6 | 5, 0xABCD)
    assert wire.command(2 << 6 | 5) == 0xABCD
    wire.command(3 << 6 | 5)  # ERASE
    assert wire.command(2 << 6 | 5) == 0xFFFF
    wire.command(0b01 << 4, 0x1111)  # WRAL
    assert driver.card.eeprom.words == [0x1111] * 64
    wire.command(0b10 << 4)  # ERAL
    assert driver.card.eeprom.words == [0xFFFF] * 64
    wire.command(0)  # EWDS
    wire.command(1 << 6 | 5, 0)
    assert wire.command(2 << 6 | 5) == 0xFFFF


def test_the_address_of_a_written_eeprom_counts_after_a_reset(driver: E1000Driver) -> None:
    wire = Microwire(driver)
    wire.command(0b11 << 4)
    wire.command(1 << 6 | 0, 0x0002)
    driver.write(spec.CTRL, spec.CTRL_RST)
    assert driver.read(spec.RA) & 0xFFFF == 0x0002


# ---- PHY and link ----------------------------------------------------------------------------------


def test_the_phy_is_an_m88e1011_with_its_link_up(driver: E1000Driver) -> None:
    assert [phy_read(driver, at) for at in (2, 3, 17)] == [0x0141, 0x0C20, 0xAC00]
    assert phy_read(driver, 1) & 0x24 == 0x24
    assert driver.read(spec.STATUS) == 0x783


@pytest.mark.parametrize("command", [0x0841_0000, 0x0827_0000, 0x0421_0000, 0x0021_0000])
def test_a_management_command_that_goes_nowhere_says_so(driver: E1000Driver, command: int) -> None:
    """Another PHY, no register, a read-only register, no operation."""
    driver.write(spec.MDIC, command)
    assert driver.read(spec.MDIC) & (spec.MDIC_READY | spec.MDIC_ERROR) == spec.MDIC_READY | spec.MDIC_ERROR


def test_a_management_command_can_end_with_an_interrupt(driver: E1000Driver) -> None:
    phy_read(driver, 2)
    assert driver.read(spec.ICR) == 0
    driver.write(spec.MDIC, spec.MDIC_READ << 26 | 1 << 21 | 2 << 16 | spec.MDIC_INTERRUPT)
    assert driver.read(spec.ICR) == spec.ICR_MDAC


@pytest.mark.parametrize("value", [BMCR_RESTART, BMCR_RESET])
def test_negotiation_takes_its_time_and_tells_of_the_link(driver: E1000Driver, value: int) -> None:
    phy_write(driver, 0, value)
    assert phy_read(driver, 0) == 0x1140
    assert driver.read(spec.ICR) == spec.ICR_LSC
    driver.clock.advance(AUTONEG_NS - 1)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.clock.advance(1)
    assert driver.read(spec.STATUS) & spec.STATUS_LU
    assert driver.read(spec.ICR) == spec.ICR_LSC
    assert phy_read(driver, 1) & 0x24 == 0x20  # the loss shows once more
    assert phy_read(driver, 1) & 0x24 == 0x24


def test_a_pulled_cable_and_a_new_one_are_told(driver: E1000Driver) -> None:
    driver.start()
    driver.cable.plug(False)
    assert driver.read(spec.ICR) == 0  # another thread may have pulled it
    driver.run()
    assert driver.read(spec.ICR) == spec.ICR_LSC
    driver.send(FRAME)
    driver.cable.offer(FRAME)
    driver.run()
    assert driver.cable.sent == []
    assert driver.received() == []
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.cable.plug(True)
    driver.run()
    driver.clock.advance(AUTONEG_NS)
    assert driver.read(spec.ICR) & spec.ICR_LSC
    driver.send(FRAME)
    assert [frame for frame, _ in driver.cable.sent] == [FRAME]


def test_without_a_cable_the_link_starts_down() -> None:
    driver = E1000Driver(cable=Cable(link_up=False))
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.clock.advance(AUTONEG_NS)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.close()


def test_a_phy_that_is_powered_down_has_no_link(driver: E1000Driver) -> None:
    phy_write(driver, 0, 0x1940)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    phy_write(driver, 0, 0x1140)
    assert driver.read(spec.STATUS) & spec.STATUS_LU


# ---- interrupts ------------------------------------------------------------------------------------


def test_the_pin_is_high_while_an_enabled_cause_is_there(driver: E1000Driver) -> None:
    driver.write(spec.ICS, spec.ICR_LSC | spec.ICR_TXDW)
    assert not driver.line.level
    driver.write(spec.IMS, spec.ICR_TXDW)
    assert driver.line.level
    driver.write(spec.IMC, spec.ICR_TXDW)
    assert not driver.line.level
    driver.write(spec.IMS, spec.ICR_LSC)
    assert driver.line.level
    driver.write(spec.ICR, spec.ICR_LSC)
    assert not driver.line.level
    assert driver.read(spec.IMS) == spec.ICR_LSC
    assert driver.read(spec.ICR) == spec.ICR_TXDW
    assert driver.read(spec.ICR) == 0
    assert driver.card.costs.interrupts == 2


def test_a_read_of_the_causes_lowers_the_pin(driver: E1000Driver) -> None:
    driver.write(spec.IMS, ALL)
    driver.write(spec.ICS, spec.ICR_RXT0)
    assert driver.read(spec.ICR) == spec.ICR_RXT0
    assert not driver.line.level


def test_throttled_interrupts_keep_their_distance(driver: E1000Driver) -> None:
    driver.write(spec.ITR, 100)
    driver.write(spec.IMS, ALL)
    driver.write(spec.ICS, 1)
    assert driver.line.level
    driver.read(spec.ICR)
    driver.write(spec.ICS, 1)
    assert not driver.line.level
    driver.clock.advance(100 * 256 - 1)
    assert not driver.line.level
    driver.clock.advance(1)
    assert driver.line.level
    driver.read(spec.ICR)
    driver.clock.advance(100 * 256)
    driver.write(spec.ICS, 1)
    assert driver.line.level


def test_a_throttled_cause_that_is_read_before_gives_no_interrupt(driver: E1000Driver) -> None:
    driver.write(spec.ITR, 100)
    driver.write(spec.IMS, ALL)
    for _ in range(2):
        driver.write(spec.ICS, 1)
        driver.read(spec.ICR)
    driver.clock.advance(1_000_000)
    assert driver.card.costs.interrupts == 1


def test_a_throttle_that_is_taken_off_frees_the_interrupt(driver: E1000Driver) -> None:
    driver.write(spec.ITR, 0xFFFF)
    driver.write(spec.IMS, ALL)
    driver.write(spec.ICS, 1)
    driver.read(spec.ICR)
    driver.write(spec.ICS, 1)
    driver.write(spec.ITR, 0)
    assert driver.line.level


@pytest.mark.parametrize("absolute", [0, 3])
def test_receive_interrupts_wait_for_quiet_up_to_a_limit(driver: E1000Driver, absolute: int) -> None:
    driver.start()
    driver.write(spec.RDTR, 2)
    driver.write(spec.RADV, absolute)
    driver.write(spec.IMS, spec.ICR_RXT0)
    for _ in range(3):
        driver.cable.offer(FRAME)
        driver.run()
        assert not driver.line.level
        driver.clock.advance(1024)
    assert driver.line.level == bool(absolute)
    driver.clock.advance(1024)
    assert driver.line.level
    assert driver.card.costs.interrupts == 1


def test_a_flushed_timer_interrupts_at_once(driver: E1000Driver) -> None:
    driver.start()
    driver.write(spec.RDTR, 0xFFFF)
    driver.write(spec.IMS, spec.ICR_RXT0)
    driver.cable.offer(FRAME)
    driver.run()
    assert not driver.line.level
    driver.write(spec.RDTR, spec.DELAY_FPD | 0xFFFF)
    assert driver.line.level
    assert driver.read(spec.RDTR) == 0xFFFF


def test_transmit_interrupts_wait_where_the_descriptor_says_so(driver: E1000Driver) -> None:
    driver.start()
    driver.write(spec.TIDV, 4)
    driver.write(spec.TADV, 8)
    driver.write(spec.IMS, spec.ICR_TXDW)
    command = spec.TXD_EOP | spec.TXD_IFCS | spec.TXD_RS
    driver.send(FRAME, command | spec.TXD_IDE)
    assert not driver.line.level
    driver.clock.advance(4 * 1024 - 1)
    assert not driver.line.level
    driver.clock.advance(1)
    assert driver.line.level
    driver.read(spec.ICR)
    driver.send(FRAME, command | spec.TXD_IDE)
    driver.send(FRAME, command)
    assert driver.line.level
    driver.read(spec.ICR)
    driver.clock.advance(1_000_000)
    assert not driver.line.level
