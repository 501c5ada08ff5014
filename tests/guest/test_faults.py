"""The `faults` image: what a hostile or broken guest gets, with its stated outcome."""

from pathlib import Path

import pytest

from emu.config import Outcome, OutcomeKind
from tests.guest import lab

GOOD = Outcome(OutcomeKind.DEBUG_EXIT, 0x10)
STRICT = ["int-n-strict", "unknown-msr-gp", "wild-ones", "wild-jump"]


@pytest.fixture(params=["fast", "public"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_sub_test_passes(tmp_path: Path, engine: str) -> None:
    disks = [lab.pattern_disk(tmp_path / name, 1 << 20) for name in ("ide", "virtio")]
    run = lab.run("faults", "test=all", ide=disks[0], virtio=disks[1], engine=engine)
    failed = [line for line in run.text.splitlines() if "result=" in line and "result=pass" not in line]
    assert failed == []
    assert run.outcome == GOOD


@pytest.mark.parametrize("plane", [{"iothread": "io0"}, {"vhost": "on"}], ids=["iothread", "vhost"])
def test_bad_virtqueues_on_a_thread_ask_for_a_reset_or_answer_an_error(
    tmp_path: Path, plane: dict[str, str]
) -> None:
    disk = lab.pattern_disk(tmp_path / "virtio", 1 << 20)
    run = lab.run("faults", "test=virtqueues,virtqueues-strict,dma-code", virtio=disk, properties=plane)
    assert run.outcome == GOOD, run.text


@pytest.mark.parametrize("name", STRICT)
def test_the_strict_form_holds_where_qemu_is_lenient(name: str, engine: str) -> None:
    run = lab.run("faults", f"test={name}", engine=engine)
    assert run.outcome == GOOD, run.text


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("triple-fault", Outcome(OutcomeKind.TRIPLE_FAULT)),
        ("hang", Outcome(OutcomeKind.HALTED)),
        ("reset", Outcome(OutcomeKind.RESET)),
        ("reset-cf9", Outcome(OutcomeKind.RESET)),
        ("panic", Outcome(OutcomeKind.DEBUG_EXIT, 0x1F)),
    ],
)
def test_a_guest_that_ends_its_machine_has_its_verdict(name: str, outcome: Outcome, engine: str) -> None:
    assert lab.run("faults", f"test={name}", engine=engine).outcome == outcome


def test_a_guest_that_spins_with_interrupts_off_can_be_stopped(engine: str) -> None:
    board, output = lab.build("faults", "test=spin", engine=engine)
    import threading

    stopper = threading.Timer(0.5, board.machine.stop)
    stopper.start()
    run = lab.finish(board, output)
    stopper.join()
    assert run.outcome == Outcome(OutcomeKind.STOPPED)
