"""Intel 82540EM Gigabit Ethernet controller: registers, PCI function and what joins its parts.

Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (SDM), chapters 4
(PCI), 13 (registers) and 14 (reset); as QEMU's `e1000` presents it to its drivers.
"""

import functools
import threading
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.bus.memory import GuestMemory
from emu.bus.pci_bar import Bar, BarKind, BarWindow
from emu.bus.pci_config import PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.types import AccessError, Fault
from emu.clock import Clock
from emu.devices import e1000_spec as spec
from emu.devices.alarm import Alarm
from emu.devices.e1000_eeprom import Eeprom
from emu.devices.e1000_filter import Filter
from emu.devices.e1000_interrupts import DelayedCause, Interrupts
from emu.devices.e1000_phy import Phy
from emu.devices.e1000_ring import Ring
from emu.devices.e1000_rx import Receiver
from emu.devices.e1000_stats import NAMES as STATISTICS_NAMES
from emu.devices.e1000_stats import Statistics
from emu.devices.e1000_tx import AT_ONCE, DELAYED, Transmitter
from emu.devices.host_bridge import INTEL, QEMU_SUBSYSTEM, QUMRANET
from emu.devices.net.types import Buffers, NetBackend, Offload
from emu.errors import ConfigError

DEVICE_ID: Final = 0x100E
REVISION: Final = 3
CLASS_ETHERNET: Final = 0x02_0000
FRAMES_A_LOOK, DESCRIPTORS_A_LOOK = 64, 256
"""Taken at one exit; what is left waits until the guest has run for PAUSE_NS."""
PAUSE_NS: Final = 1_000
Post = Callable[[Callable[[], None]], None]
"""Runs a call on the vCPU thread, soon; from any thread."""
Reader = Callable[[], int]
Writer = Callable[[int], None]


class E1000:
    """The card, plugged into `backend`; `function` goes into a PCI slot. The vCPU thread's own.

    `mac` has six bytes (ConfigError). Frames wait in the backend until the guest has buffers for them;
    whoever watches the backend's descriptor calls `frames_wait`. `costs` are the card's share: a request is
    a frame that the backend took or the guest got, an interrupt a rise of the pin.
    """

    size = spec.BAR_SIZE

    def __init__(
        self,
        memory: GuestMemory,
        clock: Clock,
        backend: NetBackend,
        mac: bytes,
        post: Post,
        name: str = "e1000",
    ) -> None:
        if len(mac) != 6:
            raise ConfigError(f"{name}: a MAC address has 6 bytes, not {len(mac)}")
        self.name, self.backend, self.costs = name, backend, Costs()
        self._post, self._clock = post, clock
        identity = PciIdentity(INTEL, DEVICE_ID, CLASS_ETHERNET, REVISION, QUMRANET, QEMU_SUBSYSTEM)
        self.io = IoWindow(self)
        self.function = PciFunction(
            identity,
            name,
            bars=(
                Bar(0, BarKind.MEM32, spec.BAR_SIZE, [BarWindow(0, self, name)]),
                Bar(1, BarKind.IO, spec.IO_SIZE, [BarWindow(0, self.io, f"{name}-io")]),
            ),
            intx_pin=1,
        )
        self._values = [0] * (spec.REGISTER_SPACE >> 2)
        self._masks = [0] * (spec.REGISTER_SPACE >> 2)
        self.eeprom = Eeprom(mac)
        self.statistics = Statistics()
        self.interrupts = Interrupts(clock, self.function.intx, self.costs)
        self._rx_delay = DelayedCause(clock, self.interrupts, spec.ICR_RXT0)
        self._tx_delay = DelayedCause(clock, self.interrupts, spec.ICR_TXDW)
        self.filter = Filter(self._values)
        self.receiver = Receiver(memory, self.statistics, self.filter, self.costs)
        self.transmitter = Transmitter(
            memory, self.statistics, self.costs, self._send, self._loop, self._loops_back
        )
        self.phy = Phy(clock, backend.link_up, self._link_changed)
        self._rx_again = Alarm(clock, self.poll)
        self._tx_again = Alarm(clock, self._transmit)
        self._polls = False  # a posted poll is under way
        self._sender = 0  # the thread that is inside of the backend's `send`
        self._answered = False
        self._starved = False  # frames may wait, and no buffer does
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._wire_registers()
        self.function.on_reset.append(self.power_on)
        self.function.on_command.append(self._command_changed)
        backend.on_ready = self.frames_wait
        backend.on_link = self._cable
        self.power_on()

    # ---- the register map --------------------------------------------------------------------------

    # fmt: off
    def _wire_registers(self) -> None:
        self._names = dict(STATISTICS_NAMES)
        for plain in spec.PLAIN:
            for i in range(plain.number):
                at = plain.offset + 4 * i
                self._masks[at >> 2] = plain.mask
                self._names[at] = plain.name if plain.number == 1 else f"{plain.name}[{i}]"
        for pair in range(spec.RA_PAIRS):
            self._names[spec.RA + 8 * pair] = f"RAL{pair}"
            self._names[spec.RA + 8 * pair + 4] = f"RAH{pair}"
        statistics, interrupts, eeprom, phy = self.statistics, self.interrupts, self.eeprom, self.phy
        rx, tx = self.receiver.ring, self.transmitter.ring
        for at in range(spec.STATISTICS, spec.STATISTICS_END, 4):
            self._readers[at] = functools.partial(statistics.read, at)
            self._writers[at] = _ignore
        self._readers |= {
            spec.STATUS: self._status,
            spec.EECD: eeprom.read_eecd,       spec.EERD: eeprom.read_eerd,       spec.MDIC: phy.read_mdic,
            spec.ICR:  interrupts.read_icr,    spec.ITR:  lambda: interrupts.itr,
            spec.IMS:  lambda: interrupts.ims, spec.IMC: lambda: interrupts.ims,
            spec.RDH:  lambda: rx.head,        spec.TDH: lambda: tx.head,
        }
        self._writers |= {
            spec.CTRL:   self._write_ctrl,     spec.CTRL_EXT: self._write_ctrl_ext,
            spec.EECD:   eeprom.write_eecd,    spec.EERD:   eeprom.write_eerd,    spec.MDIC: self._write_mdic,
            spec.ICR:    interrupts.write_icr, spec.ITR:    interrupts.write_itr, spec.ICS: interrupts.add,
            spec.IMS:    interrupts.write_ims, spec.IMC:    interrupts.write_imc,
            spec.RCTL:   self._write_rctl,     spec.TCTL:   self._write_tctl,
            spec.VET:    self._write_vet,      spec.RXCSUM: self._write_rxcsum,
            spec.RSRPD:  self._write_rsrpd,
            spec.RDT:    self._write_rdt,      spec.TDT:    self._write_tdt,
        }
        for ring, low, high, length, head in (
            (rx, spec.RDBAL, spec.RDBAH, spec.RDLEN, spec.RDH),
            (tx, spec.TDBAL, spec.TDBAH, spec.TDLEN, spec.TDH),
        ):
            for at in (low, high):
                self._writers[at] = functools.partial(self._write_base, ring, low, high, at)
            self._writers[length] = functools.partial(self._write_length, ring, length)
            self._writers[head] = functools.partial(_write_head, ring)
        for delay, packet, absolute in (
            (self._rx_delay, spec.RDTR, spec.RADV),
            (self._tx_delay, spec.TIDV, spec.TADV),
        ):
            self._writers[packet] = functools.partial(self._write_packet_delay, delay, packet)
            self._writers[absolute] = functools.partial(self._write_absolute_delay, delay, absolute)
        for first, count in ((spec.MTA, spec.MTA_WORDS), (spec.RA, 2 * spec.RA_PAIRS)):
            for at in range(first, first + 4 * count, 4):
                self._writers[at] = functools.partial(self._write_address, at)
    # fmt: on

    def read(self, offset: int, width: int) -> int:
        """See `Region`; a part of a register reads as that part."""
        if width == 4 and not offset & 3:
            reader = self._readers.get(offset)
            if reader is not None:
                return reader()
            return self._values[offset >> 2] if offset < spec.REGISTER_SPACE else 0
        shift = 8 * (offset & 3)
        value = self.read(offset & ~3, 4)
        return value >> shift & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """See `Region`. Registers are written whole (SDM 13.2): AccessError for a part of one."""
        if width != 4 or offset & 3:
            raise AccessError(Fault.WIDTH)
        writer = self._writers.get(offset)
        if writer is not None:
            writer(value)
        elif offset < spec.REGISTER_SPACE:
            self._keep(offset, value)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The manual's name."""
        return self._names.get(offset & ~3) or f"{offset & ~3:#x}"

    def _keep(self, offset: int, value: int) -> int:
        """Store the bits of a register that keep what is written; return it."""
        index = offset >> 2
        mask = self._masks[index]
        self._values[index] = value = self._values[index] & ~mask | value & mask
        return value

    # ---- reset -------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """RST#: everything, the PHY too."""
        self.eeprom.reset()
        self.phy.carrier = self.backend.link_up
        self.phy.power_on()
        self.reset()

    def reset(self) -> None:
        """CTRL.RST: all but the PCI configuration and the PHY; the address comes from the EEPROM."""
        for plain in spec.PLAIN:
            for i in range(plain.number):
                self._values[(plain.offset >> 2) + i] = plain.reset
        self._values[spec.RA >> 2] = int.from_bytes(self.eeprom.mac[:4], "little")
        self._values[(spec.RA >> 2) + 1] = int.from_bytes(self.eeprom.mac[4:], "little") | spec.RAH_AV
        self.interrupts.reset()
        self._rx_delay.reset()
        self._tx_delay.reset()
        self.statistics.reset()
        self.receiver.reset()
        self.transmitter.reset()
        self._rx_again.clear()
        self._tx_again.clear()

    def _write_ctrl(self, value: int) -> None:
        if value & spec.CTRL_RST:
            self.reset()
            return
        self._keep(spec.CTRL, value)
        self.receiver.strips_vlan = self.transmitter.inserts_vlan = bool(value & spec.CTRL_VME)
        if value & spec.CTRL_PHY_RST:
            self.phy.soft_reset()

    def _write_ctrl_ext(self, value: int) -> None:
        self._keep(spec.CTRL_EXT, value)
        if value & spec.CTRL_EXT_EE_RST:
            self.eeprom.reset()

    def _command_changed(self) -> None:
        """Bus mastering was allowed or forbidden."""
        for ring in (self.receiver.ring, self.transmitter.ring):
            if ring.allowed != self.function.bus_master:
                ring.allowed = self.function.bus_master
                ring.locate()

    # ---- link --------------------------------------------------------------------------------------

    def _status(self) -> int:
        return spec.STATUS_FIXED | (spec.STATUS_LU if self.phy.link else 0)

    def _link_changed(self) -> None:
        self.interrupts.add(spec.ICR_LSC)

    def _cable(self, up: bool) -> None:
        """Any thread: somebody came to the other end, or left it."""
        self._post(lambda: self.phy.set_carrier(up))

    def _write_mdic(self, value: int) -> None:
        if self.phy.write_mdic(value):
            self.interrupts.add(spec.ICR_MDAC)

    def _loops_back(self) -> bool:
        return self.phy.loopback or bool(self._values[spec.RCTL >> 2] & spec.RCTL_LBM)

    # ---- registers of both directions --------------------------------------------------------------

    def _write_vet(self, value: int) -> None:
        self.receiver.vlan_type = self.transmitter.vlan_type = self._keep(spec.VET, value) & 0xFFFF

    def _write_base(self, ring: Ring, low: int, high: int, at: int, value: int) -> None:
        """Either half of a ring's address."""
        self._keep(at, value)
        ring.base = self._values[low >> 2] | self._values[high >> 2] << 32
        ring.locate()

    def _write_length(self, ring: Ring, at: int, value: int) -> None:
        ring.length = self._keep(at, value)
        ring.locate()

    def _write_packet_delay(self, delay: DelayedCause, at: int, value: int) -> None:
        delay.packet = self._keep(at, value)
        if value & spec.DELAY_FPD:
            delay.flush()

    def _write_absolute_delay(self, delay: DelayedCause, at: int, value: int) -> None:
        delay.absolute = self._keep(at, value)

    # ---- receive -----------------------------------------------------------------------------------

    def _write_rctl(self, value: int) -> None:
        self._keep(spec.RCTL, value)
        self.receiver.set_control(value)
        self.poll()

    def _write_rxcsum(self, value: int) -> None:
        self.receiver.rxcsum = self._keep(spec.RXCSUM, value)

    def _write_rsrpd(self, value: int) -> None:
        self.receiver.small_packet = self._keep(spec.RSRPD, value)

    def _write_address(self, offset: int, value: int) -> None:
        self._keep(offset, value)
        self.filter.forget()

    def _write_rdt(self, value: int) -> None:
        ring = self.receiver.ring
        self._values[spec.RDT >> 2] = ring.tail = value & 0xFFFF
        ring.check()
        if self._starved:
            self.poll()

    def frames_wait(self) -> None:
        """Any thread: the backend has frames after it had none."""
        if threading.get_ident() == self._sender:
            self._answered = True  # an answer within `send`: `_transmit` looks, without a detour
        elif not self._polls:
            self._polls = True
            self._post(self._posted)

    def _posted(self) -> None:
        self._polls = False
        self.poll()

    def poll(self) -> None:
        """Take what frames wait, as far as there are buffers; vCPU thread.

        While the receiver is off or the link is down frames come to nothing, as on a wire.
        """
        receiver, receive = self.receiver, self.backend.receive
        ring, listens = receiver.ring, receiver.enabled and self.phy.link
        plenty, self._starved = not receiver.below_threshold, False
        for _ in range(FRAMES_A_LOOK):
            if listens and not ring.owned:
                self._starved = True
                break
            frame = receive()
            if frame is None:
                break
            if listens:
                receiver.take(frame)
        else:
            self._rx_again.set(self._clock.now_ns() + PAUSE_NS)
        self._received(plenty)

    def _received(self, plenty: bool) -> None:
        """Interrupts for what came; `plenty`: the ring was above its threshold before."""
        receiver = self.receiver
        causes, receiver.causes = receiver.causes, 0
        if plenty and receiver.below_threshold:
            causes |= spec.ICR_RXDMT0
        if causes & spec.ICR_RXT0:
            self._rx_delay.start(causes & ~spec.ICR_RXT0)
        elif causes:
            self.interrupts.add(causes)

    def _loop(self, frame: bytes) -> None:
        """A frame comes back from the transmitter; without a buffer it is lost."""
        if self.receiver.enabled:
            plenty = not self.receiver.below_threshold
            self.receiver.take(frame)
            self._received(plenty)

    # ---- transmit ----------------------------------------------------------------------------------

    def _write_tctl(self, value: int) -> None:
        self._keep(spec.TCTL, value)
        self.transmitter.set_control(value)
        self._transmit()

    def _write_tdt(self, value: int) -> None:
        ring = self.transmitter.ring
        self._values[spec.TDT >> 2] = ring.tail = value & 0xFFFF
        ring.check()
        self._transmit()

    def _transmit(self) -> None:
        """The hot path: send what the driver has put into the ring, then take what came back at once."""
        transmitter = self.transmitter
        ring = transmitter.ring
        if not transmitter.enabled or not ring.usable or ring.head == ring.tail:
            return
        before = ring.owned
        self._sender, self._answered = threading.get_ident(), False
        report = transmitter.run(DESCRIPTORS_A_LOOK)
        self._sender = 0
        if ring.head != ring.tail:
            self._tx_again.set(self._clock.now_ns() + PAUSE_NS)
        causes = spec.ICR_TXQE if ring.head == ring.tail else 0
        low = (self._values[spec.TXDCTL >> 2] >> spec.LWTHRESH_SHIFT) * 8
        if before >= low > ring.owned:
            causes |= spec.ICR_TXD_LOW
        if report == DELAYED:
            self._tx_delay.start(causes)
        else:
            if report == AT_ONCE:
                self._tx_delay.stop()
                causes |= spec.ICR_TXDW
            self.interrupts.add(causes)
        if self._answered:
            self.poll()

    def _send(self, frame: Buffers, offload: Offload | None) -> None:
        """Onto the cable; without a link it comes to nothing."""
        if self.phy.link:
            self.backend.send(frame, offload)


class IoWindow:
    """BAR 1: registers through two ports, IOADDR and IODATA. Source: SDM 4.1.4, 13.2.2."""

    size = spec.IO_SIZE

    def __init__(self, card: E1000) -> None:
        self._card = card
        self._address = 0

    def read(self, offset: int, width: int) -> int:
        """See `Region`. Both registers are read whole."""
        if width != 4 or offset not in (spec.IOADDR, spec.IODATA):
            raise AccessError(Fault.NO_REGISTER if width == 4 else Fault.WIDTH)
        if offset == spec.IOADDR:
            return self._address
        return self._card.read(self._address, 4) if self._reaches else 0

    def write(self, offset: int, width: int, value: int) -> None:
        """See `Region`."""
        if width != 4 or offset not in (spec.IOADDR, spec.IODATA):
            raise AccessError(Fault.NO_REGISTER if width == 4 else Fault.WIDTH)
        if offset == spec.IOADDR:
            self._address = value
        elif self._reaches:
            self._card.write(self._address, 4, value)

    @property
    def _reaches(self) -> bool:
        """IOADDR is that of a register; the flash behind 0x80000 is not there."""
        return self._address < spec.BAR_SIZE and not self._address & 3

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The manual's name."""
        return {spec.IOADDR: "IOADDR", spec.IODATA: "IODATA"}.get(offset & ~3, f"{offset:#x}")


def _ignore(_value: int) -> None:
    """A register that cannot be written."""


def _write_head(ring: Ring, value: int) -> None:
    """RDH or TDH."""
    ring.head = value & 0xFFFF
    ring.check()
