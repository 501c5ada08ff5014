import pytest

from emu.clock import GuestClock
from emu.devices.serial_16550 import WAITING_SIZE, Serial16550
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = range(1, 8)
FCR = IIR


class Uart(Serial16550):
    """A UART with its line, its output and a clock moved by hand."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.irq = RecordingLine()
        self.time = GuestClock()
        super().__init__(self.irq, self.sent.extend, self.time)

    def get(self, offset: int) -> int:
        return self.read(offset, 1)

    def put(self, offset: int, value: int) -> None:
        self.write(offset, 1, value)


def test_power_on_state() -> None:
    uart = Uart()
    assert [uart.get(at) for at in (RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR)] == [0, 0, 1, 0, 8, 0x60, 0xB0, 0]


def test_output_leaves_at_once() -> None:
    uart = Uart()
    for value in b"hi\xff":
        uart.put(THR, value)
    assert uart.sent == b"hi\xff"
    assert uart.get(LSR) == 0x60


def test_the_divisor_latch_hides_data_and_ier() -> None:
    uart = Uart()
    uart.put(IER, 5)
    uart.put(LCR, 0x83)
    assert (uart.register_name(0, True), uart.register_name(1, False)) == ("DLL", "DLM")
    uart.put(0, 0x34)
    uart.put(1, 0x12)
    assert (uart.get(0), uart.get(1)) == (0x34, 0x12)
    uart.put(LCR, 0x03)
    assert uart.get(IER) == 5
    assert uart.sent == b""
    assert (uart.register_name(0, True), uart.register_name(0, False)) == ("THR", "RBR")
    assert (uart.register_name(2, True), uart.register_name(2, False)) == ("FCR", "IIR")


def test_enabling_the_thre_interrupt_raises_it_and_reading_iir_takes_it_back() -> None:
    uart = Uart()
    uart.put(IER, 2)
    assert uart.irq.level
    assert uart.get(IIR) == 0x02
    assert not uart.irq.level
    assert uart.get(IIR) == 0x01


def test_each_byte_sent_makes_a_new_edge() -> None:
    uart = Uart()
    uart.put(IER, 2)
    uart.irq.levels.clear()
    uart.put(THR, 0x41)
    assert uart.irq.levels == [False, True]


def test_received_data_interrupts_until_it_is_read() -> None:
    uart = Uart()
    uart.put(IER, 1)
    uart.receive(b"A")
    assert uart.irq.level
    assert uart.get(IIR) == 0x04
    assert uart.get(LSR) == 0x61
    assert uart.get(RBR) == 0x41
    assert not uart.irq.level
    assert uart.get(LSR) == 0x60


def test_without_fifos_input_waits_its_turn() -> None:
    uart = Uart()
    uart.receive(b"abc")
    assert bytes(uart.get(RBR) for _ in range(3)) == b"abc"
    assert uart.get(LSR) == 0x60
    assert uart.get(RBR) == 0x63


@pytest.mark.parametrize(("fcr", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_fifo_interrupts_at_its_trigger_level(fcr: int, level: int) -> None:
    uart = Uart()
    uart.put(FCR, fcr)
    uart.put(IER, 1)
    uart.receive(b"x" * (level - 1))
    assert not uart.irq.level
    uart.receive(b"x")
    assert uart.irq.level
    assert uart.get(IIR) == 0xC4
    uart.get(RBR)
    assert not uart.irq.level


def test_a_few_characters_interrupt_after_four_character_times() -> None:
    uart = Uart()
    uart.put(LCR, 0x03)
    uart.put(FCR, 0xC1)
    uart.put(IER, 1)
    uart.receive(b"ab")
    wait = 4 * uart.character_ns()
    assert uart.character_ns() == 10 * 12 * 1_000_000_000 // 115_200
    uart.time.advance(wait - 1)
    assert not uart.irq.level
    uart.time.advance(1)
    assert uart.irq.level
    assert uart.get(IIR) == 0xCC
    uart.get(RBR)
    assert not uart.irq.level
    uart.time.advance(wait - 1)
    assert uart.get(IIR) == 0xC1
    uart.time.advance(1)
    assert uart.get(IIR) == 0xCC


def test_without_a_clock_the_timeout_is_immediate() -> None:
    irq = RecordingLine()
    uart = Serial16550(irq, lambda _data: None)
    uart.write(FCR, 1, 0xC1)
    uart.write(IER, 1, 1)
    uart.receive(b"a")
    assert irq.level
    assert uart.read(IIR, 1) == 0xCC


def test_priorities_are_line_data_thre_modem() -> None:
    uart = Uart()
    uart.put(IER, 0x0F)
    uart.receive_break()
    uart.set_modem_lines(cts=False)
    assert uart.get(IIR) == 0x06
    assert uart.get(LSR) == 0x71
    assert uart.get(IIR) == 0x04
    assert uart.get(RBR) == 0
    assert uart.get(IIR) == 0x02
    assert uart.get(IIR) == 0x00
    assert uart.get(MSR) == 0xA1
    assert uart.get(IIR) == 0x01
    assert not uart.irq.level


def test_a_break_is_shown_when_its_character_is_next() -> None:
    uart = Uart()
    uart.put(FCR, 1)
    uart.receive(b"a")
    uart.receive_break()
    assert uart.get(LSR) == 0xE1
    uart.get(RBR)
    assert uart.get(LSR) == 0xF1
    assert uart.get(RBR) == 0
    assert uart.get(LSR) == 0x60


def test_clearing_the_fifo_drops_its_data() -> None:
    uart = Uart()
    uart.put(FCR, 1)
    uart.receive(b"abc")
    uart.put(FCR, 3)
    assert uart.get(LSR) == 0x60
    assert uart.get(RBR) == 0


def test_loopback_receives_what_it_sends() -> None:
    uart = Uart()
    uart.put(MCR, 0x10)
    uart.put(THR, 0x55)
    assert uart.sent == b""
    assert uart.get(LSR) == 0x61
    assert uart.get(RBR) == 0x55


def test_loopback_overruns_a_full_receiver() -> None:
    uart = Uart()
    uart.put(MCR, 0x10)
    uart.put(THR, 1)
    uart.put(THR, 2)
    assert uart.get(LSR) == 0x63
    assert uart.get(LSR) == 0x61
    assert uart.get(RBR) == 2
    uart.put(FCR, 1)
    for value in range(17):
        uart.put(THR, value)
    assert uart.get(LSR) == 0x63
    assert [uart.get(RBR) for _ in range(16)] == list(range(16))


def test_loopback_turns_modem_outputs_into_inputs() -> None:
    uart = Uart()
    uart.put(MCR, 0x1A)
    assert uart.get(MSR) == 0x90
    uart.put(MCR, 0x1F)
    assert uart.get(MSR) == 0xF2
    uart.put(MCR, 0x1B)
    assert uart.get(MSR) == 0xB4
    uart.put(MCR, 0x08)
    assert uart.get(MSR) == 0xB0


def test_input_waits_out_a_loopback() -> None:
    uart = Uart()
    uart.put(MCR, 0x10)
    uart.receive(b"z")
    assert uart.get(LSR) == 0x60
    uart.put(MCR, 0x00)
    assert uart.get(RBR) == 0x7A


def test_the_queue_is_bounded_and_says_when_there_is_room() -> None:
    uart = Uart()
    calls: list[int] = []
    uart.on_room = lambda: calls.append(uart.room())
    uart.receive(bytes(uart.room()))
    uart.receive(bytes(uart.room()))
    assert uart.room() == 0
    assert uart.get(LSR) == 0x61
    uart.receive(b"lost")
    assert uart.get(LSR) == 0x63
    for _ in range(WAITING_SIZE // 2 - 1):
        uart.get(RBR)
    assert calls == []
    uart.get(RBR)
    assert calls == [WAITING_SIZE // 2]


def test_a_reset_makes_room_and_says_so() -> None:
    uart = Uart()
    calls: list[int] = []
    uart.on_room = lambda: calls.append(uart.room())
    uart.receive(bytes(uart.room()))
    uart.reset()
    assert calls == [WAITING_SIZE]


def test_a_saved_uart_goes_on_without_an_edge() -> None:
    uart, other = Uart(), Uart()
    uart.put(FCR, 0x41)
    uart.put(IER, 1)
    uart.receive(b"abcde" * 5)
    other.load(uart.save())
    assert other.irq.levels == []
    assert other.irq.level
    assert bytes(other.get(RBR) for _ in range(25)) == b"abcde" * 5
    uart.reset()
    assert not uart.irq.level
    assert uart.get(LSR) == 0x60


def test_a_saved_timeout_still_comes() -> None:
    uart, other = Uart(), Uart()
    uart.put(FCR, 0xC1)
    uart.put(IER, 1)
    uart.receive(b"a")
    other.load(uart.save())
    other.time.advance(4 * uart.character_ns() - 1)
    assert not other.irq.level
    other.time.advance(1)
    assert other.irq.level


@pytest.mark.parametrize(
    "change", [{"rx": bytes(17)}, {"rx": 1}, {"divisor": 1 << 16}, {"thre": 2}, {"ier": "1"}]
)
def test_a_wrong_saved_state_is_refused(change: dict[str, object]) -> None:
    uart = Uart()
    with pytest.raises(ConfigError, match=next(iter(change))):
        uart.load(uart.save() | change)
