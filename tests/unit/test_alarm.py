from emu.clock import GuestClock
from emu.devices.alarm import Alarm


def test_it_rings_once_at_its_deadline() -> None:
    clock, rings = GuestClock(), []
    alarm = Alarm(clock, lambda: rings.append(clock.now_ns()))
    alarm.set(100)
    clock.advance(99)
    assert rings == []
    clock.advance(1)
    assert rings == [100]
    assert alarm.deadline_ns is None
    clock.advance(1000)
    assert rings == [100]


def test_the_last_deadline_counts_whether_later_or_earlier() -> None:
    clock, rings = GuestClock(), []
    alarm = Alarm(clock, lambda: rings.append(clock.now_ns()))
    alarm.set(100)
    alarm.set(200)
    clock.advance(150)
    assert rings == []
    alarm.set(160)
    clock.advance(100)
    assert rings == [160]


def test_a_cleared_alarm_is_silent_and_may_be_set_again() -> None:
    clock, rings = GuestClock(), []
    alarm = Alarm(clock, lambda: rings.append(clock.now_ns()))
    alarm.set(100)
    alarm.clear()
    clock.advance(50)
    alarm.set(120)
    clock.advance(100)
    assert rings == [120]


def test_moving_it_later_in_a_loop_arms_one_timer() -> None:
    clock = GuestClock()
    alarm = Alarm(clock, lambda: None)
    for deadline in range(1000, 5000):
        alarm.set(deadline)
        alarm.clear()
        alarm.set(deadline + 1)
    assert len(clock.timers._heap) == 1
