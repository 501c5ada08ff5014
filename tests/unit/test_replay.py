"""Accesses of an instruction that begins anew are answered from the record, each once, and then no more."""

from emu.cpu.public.replay import IN, READ, WRITE, Access, Replay

STATUS: Access = (IN, 0x1F7, 1)
LOAD: Access = (READ, 0xE000_0000, 4)
STORE: Access = (WRITE, 0xE000_0010, 4)


def replay(*made: tuple[Access, int]) -> Replay:
    """What `made` these accesses and begins anew."""
    found = Replay()
    for each in made:
        found.add(each)
    found.begin()
    return found


def test_nothing_is_answered_before_an_instruction_begins_anew() -> None:
    found = Replay()
    found.add((LOAD, 7))
    assert not found.answers


def test_an_access_is_answered_once_and_then_made() -> None:
    found = replay((LOAD, 7))
    assert found.answer(LOAD) == 7
    assert found.answer(LOAD) is None
    assert not found.answers


def test_accesses_are_answered_in_the_order_they_were_made() -> None:
    found = replay((LOAD, 7), (STORE, 0))
    assert (found.answer(LOAD), found.answer(STORE), found.answer(LOAD)) == (7, 0, None)


def test_the_last_access_of_its_kind_counts() -> None:
    found = replay((STATUS, 1), (STATUS, 2))
    assert found.answer(STATUS) == 2


def test_another_access_ends_the_replay() -> None:
    found = replay((LOAD, 7), (STORE, 0))
    assert found.answer(STATUS) is None
    assert not found.answers


def test_another_width_or_kind_is_another_access() -> None:
    for other in ((READ, LOAD[1], 2), (WRITE, LOAD[1], 4), (READ, LOAD[1] + 4, 4)):
        assert replay((LOAD, 7)).answer(other) is None


def test_what_was_answered_may_be_answered_again_in_the_next_round() -> None:
    found = replay((LOAD, 7))
    assert found.answer(LOAD) == 7
    found.begin()
    assert found.answer(LOAD) == 7


def test_only_the_last_accesses_are_kept() -> None:
    found = replay(*((LOAD, value) for value in range(100)))
    assert len(found.answers) == 8
