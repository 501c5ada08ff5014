import threading

import pytest

from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.lapic import Lapic

ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x350, 0x360, 0x370
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
MSI, MASKED, PERIODIC, DEADLINE = 0xFEE00000, 1 << 16, 1 << 17, 1 << 18


class RecordingCpu:
    """A CPU's pins that remember what was done to them."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def poke(self) -> None:
        self.events.append("poke")

    def poke_from_outside(self) -> None:
        self.events.append("poke from outside")

    def nmi(self) -> None:
        self.events.append("nmi")

    def set_a20(self, enabled: bool) -> None:
        self.events.append(f"a20 {enabled}")

    def reset(self) -> None:
        self.events.append("reset")


class OnePic:
    """An 8259 pair reduced to the vectors that wait in it."""

    def __init__(self) -> None:
        self.waiting: list[int] = []

    def pending(self) -> bool:
        return bool(self.waiting)

    def acknowledge(self) -> int:
        return self.waiting.pop(0) if self.waiting else 39  # an 8259 always answers: spurious


class Board:
    def __init__(self, timer_hz: int = 1_000_000_000, apic_id: int = 0) -> None:
        self.clock, self.cpu, self.pic = GuestClock(), RecordingCpu(), OnePic()
        self.lapic = Lapic(self.clock, self.cpu, self.pic, timer_hz, apic_id)
        self[SVR] = 0x1FF

    def __getitem__(self, offset: int) -> int:
        return self.lapic.read(offset, 4)

    def __setitem__(self, offset: int, value: int) -> None:
        self.lapic.write(offset, 4, value)

    def vectors(self) -> list[int]:
        """Take and end interrupts until none is left."""
        taken = []
        while (vector := self.lapic.acknowledge()) >= 0:
            taken.append(vector)
            self[EOI] = 0
        return taken


@pytest.fixture
def board() -> Board:
    return Board()


def test_registers_after_reset(board: Board) -> None:
    board.lapic.reset()
    assert board[ID] == 0
    assert board[VERSION] == 0x50014
    assert (board[SVR], board[DFR], board[LDR], board[TPR]) == (0xFF, 0xFFFFFFFF, 0, 0)
    assert [board[n] for n in range(0x320, 0x380, 16)] == [MASKED] * 6
    assert board.lapic.apic_base == 0xFEE00900


def test_a_message_is_requested_then_in_service_then_ended(board: Board) -> None:
    board.lapic.send(MSI, 0x61)
    assert board.cpu.events == ["poke"]
    assert board.lapic.pending()
    assert board[IRR + 0x30] == 1 << 1
    assert board.lapic.acknowledge() == 0x61
    assert (board[IRR + 0x30], board[ISR + 0x30], board[PPR]) == (0, 1 << 1, 0x60)
    assert not board.lapic.pending()
    assert board.lapic.acknowledge() == -1
    board[EOI] = 0
    assert (board[ISR + 0x30], board[PPR]) == (0, 0)


def test_a_higher_class_interrupts_a_lower_one_and_not_its_own(board: Board) -> None:
    board.lapic.send(MSI, 0x41)
    assert board.lapic.acknowledge() == 0x41
    board.lapic.send(MSI, 0x4F)
    assert not board.lapic.pending()
    board.lapic.send(MSI, 0x50)
    assert board.lapic.acknowledge() == 0x50
    board[EOI] = 0
    assert not board.lapic.pending()
    board.cpu.events.clear()
    board[EOI] = 0
    assert board.cpu.events == ["poke"]
    assert board.vectors() == [0x4F]


def test_waiting_vectors_come_in_the_order_of_priority(board: Board) -> None:
    for vector in (0x30, 0xFF, 0x10, 0xA5, 0x31):
        board.lapic.send(MSI, vector)
    assert board.vectors() == [0xFF, 0xA5, 0x31, 0x30, 0x10]


def test_a_request_that_waits_is_kept_once(board: Board) -> None:
    board.lapic.send(MSI, 0x61)
    board.lapic.send(MSI, 0x61)
    assert set(board.cpu.events) == {"poke"}
    assert board.vectors() == [0x61]


def test_task_priority_holds_back_its_class_and_below(board: Board) -> None:
    board[TPR] = 0x60
    board.lapic.send(MSI, 0x6F)
    assert not board.lapic.pending()
    assert (board[PPR], board[APR]) == (0x60, 0x60)
    assert board.lapic.acknowledge() == -1
    board.cpu.events.clear()
    board.lapic.task_priority = 0x50
    assert board.cpu.events == ["poke"]
    assert board.vectors() == [0x6F]


def test_eoi_of_a_level_interrupt_is_told(board: Board) -> None:
    ended: list[int] = []
    board.lapic.on_eoi = ended.append
    board.lapic.send(MSI, 1 << 15 | 0x71)
    assert board[TMR + 0x30] == 1 << 17
    board.lapic.send(MSI, 0x72)
    assert board.vectors() == [0x72, 0x71]
    assert ended == [0x71]
    board[EOI] = 0
    assert ended == [0x71]


@pytest.mark.parametrize(
    ("ldr", "dfr", "address", "taken"),
    [
        (0, 0xFFFFFFFF, MSI | 0 << 12, True),
        (0, 0xFFFFFFFF, MSI | 1 << 12, False),
        (0, 0xFFFFFFFF, MSI | 0xFF << 12, True),
        (0x04, 0xFFFFFFFF, MSI | 0x06 << 12 | 4, True),
        (0x04, 0xFFFFFFFF, MSI | 0x03 << 12 | 4, False),
        (0x21, 0x0FFFFFFF, MSI | 0x23 << 12 | 4, True),
        (0x21, 0x0FFFFFFF, MSI | 0x13 << 12 | 4, False),
        (0, 0xFFFFFFFF, 0xFED00000, False),
        (0, 0xFFFFFFFF, 1 << 32 | MSI, False),
    ],
)
def test_messages_reach_their_destination_only(
    board: Board, ldr: int, dfr: int, address: int, taken: bool
) -> None:
    board[LDR], board[DFR] = ldr << 24, dfr
    board.lapic.send(address, 0x55)
    assert board.vectors() == ([0x55] if taken else [])


@pytest.mark.parametrize(
    ("high", "low", "taken"),
    [
        (0, 0x00000055, True),
        (1 << 24, 0x00000055, False),
        (0, 0x00040055, True),
        (0, 0x00080055, True),
        (0, 0x000C0055, False),
        (1 << 24, 0x00000855, True),
        (2 << 24, 0x00000855, False),
        (0, 0x00000555, False),
        (0, 0x00000655, False),
    ],
)
def test_an_ipi_reaches_only_this_cpu(board: Board, high: int, low: int, taken: bool) -> None:
    board[LDR] = 1 << 24
    board[ICR_HIGH] = high
    board[ICR_LOW] = low
    assert board.vectors() == ([0x55] if taken else [])
    assert board[ICR_LOW] & 1 << 12 == 0


def test_nmi_comes_by_ipi_and_by_message(board: Board) -> None:
    board[ICR_LOW] = 0x00000400
    board.lapic.send(MSI, 0x400)
    assert board.cpu.events == ["nmi", "nmi"]


def test_another_thread_pokes_from_outside_and_its_nmi_waits_for_the_owner(board: Board) -> None:
    def send() -> None:
        board.lapic.send(MSI, 0x61)
        board.lapic.send(MSI, 0x400)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert board.cpu.events == ["poke from outside"] * 2
    assert board.lapic.acknowledge() == 0x61
    assert board.cpu.events[-1] == "nmi"


def test_no_message_is_lost_between_threads(board: Board) -> None:
    def send() -> None:
        for n in range(20_000):
            board.lapic.send(MSI, 0x20 + n % 200)

    thread = threading.Thread(target=send)
    thread.start()
    seen: set[int] = set()
    while thread.is_alive():
        seen.update(board.vectors())
    seen.update(board.vectors())
    assert seen == set(range(0x20, 0x20 + 200))
    assert [board[ISR + 16 * n] for n in range(8)] == [0] * 8


def test_software_disable_drops_interrupts_and_masks_the_local_ones(board: Board) -> None:
    board[LVT_TIMER] = 0x40
    board[SVR] = 0xFF
    assert board[LVT_TIMER] == MASKED | 0x40
    board[LVT_TIMER] = 0x41
    assert board[LVT_TIMER] == MASKED | 0x41
    board.lapic.send(MSI, 0x61)
    assert board.vectors() == []


def test_illegal_vectors_and_registers_are_shown_after_a_write_of_esr(board: Board) -> None:
    board[LVT_ERROR] = 0xFE
    board[ICR_LOW] = 0x40005
    board.lapic.send(MSI, 3)
    assert board[0xEA0] == 0  # no such register
    assert board.vectors() == [0xFE]
    assert board[ESR] == 0
    board[ESR] = 0
    assert board[ESR] == 0xE0
    board[ESR] = 0
    assert board[ESR] == 0


def test_an_illegal_error_vector_ends(board: Board) -> None:
    board[LVT_ERROR] = 0x05
    board[0x000] = 1
    board[ESR] = 0
    assert board[ESR] == 0xC0
    assert board.vectors() == []


def test_the_one_shot_timer_fires_at_its_deadline_and_once(board: Board) -> None:
    board[DIVIDE] = 0x3  # 16
    board[LVT_TIMER] = 0xEC
    board[INITIAL] = 1000
    assert board[CURRENT] == 1000
    board.clock.advance(8000)
    assert board[CURRENT] == 500
    board.clock.advance(7999)
    assert board.vectors() == []
    board.clock.advance(1)
    assert board.vectors() == [0xEC]
    assert board[CURRENT] == 0
    board.clock.advance(1_000_000)
    assert board.vectors() == []


@pytest.mark.parametrize(
    ("code", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)]
)
def test_the_divider(board: Board, code: int, divisor: int) -> None:
    board[DIVIDE] = code
    board[LVT_TIMER] = 0x40
    board[INITIAL] = 100
    board.clock.advance(100 * divisor - 1)
    assert board.vectors() == []
    board.clock.advance(1)
    assert board.vectors() == [0x40]


def test_the_periodic_timer_keeps_its_own_schedule() -> None:
    board = Board(timer_hz=100_000_000)
    board[DIVIDE] = 0xB
    board[LVT_TIMER] = PERIODIC | 0x40
    board[INITIAL] = 100_000  # 1 ms
    for _ in range(5):
        board.clock.advance(1_000_000 - 1)
        assert board.vectors() == []
        board.clock.advance(1)
        assert board.vectors() == [0x40]
        assert board[CURRENT] == 100_000


class LateClock(GuestClock):
    """A clock whose owner slept: time jumps over deadlines before they are served."""

    def jump(self, ns: int) -> None:
        self._now_ns += ns
        self.timers.run_due(self._now_ns)


def test_missed_periods_are_dropped_and_the_phase_is_kept() -> None:
    clock, cpu = LateClock(), RecordingCpu()
    lapic = Lapic(clock, cpu, OnePic())
    lapic.write(SVR, 4, 0x1FF)
    lapic.write(DIVIDE, 4, 0xB)
    lapic.write(LVT_TIMER, 4, PERIODIC | 0x40)
    lapic.write(INITIAL, 4, 1_000_000)
    clock.jump(3_500_000)
    assert lapic.acknowledge() == 0x40
    assert lapic.read(CURRENT, 4) == 500_000
    assert clock.timers.next_deadline() == 4_000_000


def test_an_absurd_period_does_not_storm(board: Board) -> None:
    board[DIVIDE] = 0xB
    board[LVT_TIMER] = PERIODIC | 0x40
    board[INITIAL] = 1
    fired = 0
    for _ in range(1000):
        board.clock.advance(10_000)
        fired += len(board.vectors())
    assert 0 < fired <= 51  # 10 ms


def test_a_masked_timer_counts_in_silence_and_zero_stops_it(board: Board) -> None:
    board[DIVIDE] = 0xB
    board[LVT_TIMER] = MASKED | PERIODIC | 0x40
    board[INITIAL] = 1_000_000
    board.clock.advance(1_500_000)
    assert board.vectors() == []
    assert board[CURRENT] == 500_000
    board[INITIAL] = 0
    board[LVT_TIMER] = PERIODIC | 0x40
    board.clock.advance(10_000_000)
    assert (board.vectors(), board[CURRENT]) == ([], 0)
    assert board.clock.timers.next_deadline() is None
    assert board[CURRENT] == 0


def test_a_new_divider_goes_on_from_the_current_count(board: Board) -> None:
    board[DIVIDE] = 0xB
    board[LVT_TIMER] = 0x40
    board[INITIAL] = 1000
    board.clock.advance(400)
    board[DIVIDE] = 0x0
    assert board[CURRENT] == 600
    board.clock.advance(1199)
    assert board.vectors() == []
    board.clock.advance(1)
    assert board.vectors() == [0x40]


class Tsc:
    """A counter of 2 GHz that runs `late` of it."""

    def __init__(self, clock: GuestClock, late: int = 0) -> None:
        self._clock, self.offset = clock, -late

    def read(self) -> int:
        return 2 * self._clock.now_ns() + self.offset

    def hz(self) -> int:
        return 2_000_000_000


@pytest.fixture
def deadline(board: Board) -> Board:
    """A board whose timer is in TSC-deadline mode."""
    board.lapic.connect_tsc(Tsc(board.clock))
    board[LVT_TIMER] = DEADLINE | 0x40
    return board


def test_a_deadline_fires_when_the_counter_reaches_it_and_reads_as_0_then(deadline: Board) -> None:
    assert deadline.lapic.write_tsc_deadline(2000)
    deadline.clock.advance(999)
    assert (deadline.lapic.tsc_deadline, deadline.vectors()) == (2000, [])
    deadline.clock.advance(1)
    assert (deadline.lapic.tsc_deadline, deadline.vectors()) == (0, [0x40])
    deadline.clock.advance(10_000)
    assert deadline.vectors() == []


def test_a_deadline_that_has_passed_fires_at_once_and_0_disarms(deadline: Board) -> None:
    deadline.clock.advance(5000)
    deadline.lapic.write_tsc_deadline(9999)
    assert (deadline.lapic.tsc_deadline, deadline.vectors()) == (0, [0x40])
    deadline.lapic.write_tsc_deadline(20_000)
    deadline.lapic.write_tsc_deadline(0)
    deadline.clock.advance(20_000)
    assert deadline.vectors() == []


def test_a_deadline_never_fires_before_the_counter_is_there(board: Board) -> None:
    tsc = Tsc(board.clock)
    board.lapic.connect_tsc(tsc)
    board[LVT_TIMER] = DEADLINE | 0x40
    board.lapic.write_tsc_deadline(2000)
    tsc.offset = -100  # slower than its rate says
    board.clock.advance(1049)
    assert board.vectors() == []
    board.clock.advance(1)
    assert board.vectors() == [0x40]


def test_a_deadline_follows_the_counter_that_the_guest_sets(deadline: Board) -> None:
    tsc = Tsc(deadline.clock, late=-1500)
    deadline.lapic.write_tsc_deadline(2000)
    deadline.lapic.connect_tsc(tsc)
    deadline.lapic.tsc_changed()
    deadline.clock.advance(249)
    assert deadline.vectors() == []
    deadline.clock.advance(1)
    assert deadline.vectors() == [0x40]


def test_the_timer_counts_at_the_counters_rate(board: Board) -> None:
    """One crystal for both, as CPUID leaf 0x15 has it."""
    board.lapic.connect_tsc(Tsc(board.clock))
    board[DIVIDE] = 0xB
    board[LVT_TIMER] = 0x40
    board[INITIAL] = 2000
    board.clock.advance(750)
    assert board[CURRENT] == 500
    board.clock.advance(250)
    assert board.vectors() == [0x40]


def test_the_counts_and_the_deadline_are_of_different_modes(deadline: Board) -> None:
    deadline[INITIAL] = 1000
    assert (deadline[INITIAL], deadline[CURRENT]) == (0, 0)
    deadline.lapic.write_tsc_deadline(2000)
    deadline[LVT_TIMER] = 0x40  # one-shot: disarmed
    assert deadline.lapic.tsc_deadline == 0
    deadline.lapic.write_tsc_deadline(2000)
    assert deadline.lapic.tsc_deadline == 0
    deadline.clock.advance(5000)
    assert deadline.vectors() == []
    deadline[INITIAL] = 1000
    deadline[LVT_TIMER] = DEADLINE | 0x40
    deadline.clock.advance(5000)
    assert deadline.vectors() == []


def test_a_guest_that_moves_its_timer_in_a_loop_leaves_no_timers_behind(board: Board) -> None:
    for ticks in range(1000, 3000):
        board[INITIAL] = ticks
    assert len(board.clock.timers._heap) == 1


def test_the_8259_passes_only_through_an_open_extint(board: Board) -> None:
    board.pic.waiting = [0x08]
    board.lapic.ext_int_changed(True)
    assert (board.cpu.events, board.lapic.pending(), board.lapic.acknowledge()) == ([], False, -1)
    board.lapic.virtual_wire()
    assert board.cpu.events == ["poke"]
    assert board.lapic.pending()
    assert board.lapic.acknowledge() == 0x08


def test_virtual_wire_is_what_firmware_leaves(board: Board) -> None:
    board.lapic.virtual_wire()
    assert (board[SVR], board[LVT_LINT0], board[LVT_LINT1]) == (0x1FF, 0x8700, 0x8400)


def test_the_8259_comes_after_the_apics_own_and_is_not_forgotten(board: Board) -> None:
    board.lapic.virtual_wire()
    board.pic.waiting = [0x08]
    board.lapic.ext_int_changed(True)
    board.lapic.send(MSI, 0x61)
    board.cpu.events.clear()
    assert board.lapic.acknowledge() == 0x61
    assert board.cpu.events == ["poke"]
    assert board.lapic.acknowledge() == 0x08


def test_a_globally_disabled_apic_is_not_there(board: Board) -> None:
    assert board.lapic.write_apic_base(0xFEE00100)
    board.lapic.send(MSI, 0x61)
    board.pic.waiting = [0x08]
    board.lapic.ext_int_changed(True)
    assert board.lapic.acknowledge() == 0x08
    assert board.lapic.acknowledge() == -1
    assert board.lapic.write_apic_base(0xFEE00900)
    assert board[SVR] == 0xFF


def test_the_window_follows_address_and_mode(board: Board) -> None:
    windows: list[int | None] = []
    board.lapic.on_window = windows.append
    for base in (0xFEE00900, 0xFED0_0900, 0xFED0_0100, 0xFED0_0900, 0xFED0_0D00, 0xFED0_0100):
        assert board.lapic.write_apic_base(base)
    assert windows == [0xFED0_0000, None, 0xFED0_0000, None]
    board.lapic.reset()
    assert windows[4:] == [0xFEE0_0000]


def test_only_the_steps_of_the_state_diagram_are_allowed(board: Board) -> None:
    write = board.lapic.write_apic_base
    assert not write(0xFEE00500)  # EXTD without EN
    assert write(0xFEE00D00)
    assert not write(0xFEE00900)  # back to xAPIC mode leads through off
    assert write(0xFEE00100)
    assert not write(0xFEE00D00)
    assert write(0xFEE00900)


@pytest.mark.parametrize("value", [0xFEE00901, 0xFEE00B00, 1 << 40 | 0xFEE00900])
def test_an_impossible_apic_base_is_refused(board: Board, value: int) -> None:
    assert not board.lapic.write_apic_base(value)
    assert board.lapic.apic_base == 0xFEE00900


def test_lint0_in_fixed_mode_turns_the_8259s_edge_into_a_vector(board: Board) -> None:
    board[LVT_LINT0] = 0x39
    board.lapic.ext_int_changed(True)
    board.lapic.ext_int_changed(True)
    assert board.vectors() == [0x39]
    board[LVT_LINT0] = 0x400
    board.lapic.ext_int_changed(False)
    board.lapic.ext_int_changed(True)
    assert board.cpu.events[-1] == "nmi"


def test_narrow_reads_take_a_part_and_other_misfits_are_refused(board: Board) -> None:
    assert board.lapic.read(VERSION, 1) == 0x14
    assert board.lapic.read(VERSION + 2, 2) == 0x0005
    for offset, width in ((VERSION + 2, 4), (VERSION + 4, 1), (VERSION + 3, 2)):
        with pytest.raises(AccessError):
            board.lapic.read(offset, width)
    with pytest.raises(AccessError):
        board.lapic.write(EOI, 1, 0)


def test_register_names_are_the_sdms(board: Board) -> None:
    names = [board.lapic.register_name(n, True) for n in (EOI, TPR, ICR_LOW, ISR + 0x20, INITIAL, 0)]
    assert names == ["EOI", "TPR", "ICR_LOW", "ISR2", "TIMER_INITIAL", "reserved"]


def test_an_inta_cycle_without_any_request_gives_nothing(board: Board) -> None:
    """The engine leaves for alarms and pokes, too: the 8259 is not asked for a spurious vector then."""
    board.lapic.virtual_wire()
    assert board.lapic.acknowledge() == -1
