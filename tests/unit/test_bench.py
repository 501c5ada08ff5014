"""The benchmarks measure what they say; no test here looks at a time."""

import io
import json
from pathlib import Path

import pytest

from emu.bench import boot, exits, irq, mips
from emu.bench.rig import BareUnicorn, WholeMachine
from emu.bench.series import in_turns, ratio, step
from emu.cli import bench
from emu.cli.images import resolve
from emu.errors import ConfigError, EmuError


def test_the_ratio_is_of_pairs_and_its_range_leaves_the_outer_twentieths_out() -> None:
    first = [1.0] * 39 + [100.0]
    second = [2.0] * 38 + [50.0, 100.0]
    found = ratio(first, second)
    assert (found.first, found.second, found.ratio) == (1.0, 2.0, 2.0)
    assert (found.low, found.high) == (2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0], [])


def test_a_step_is_the_median_difference() -> None:
    assert step([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == 2.0


def test_measures_take_turns_in_alternating_order() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = in_turns([lambda: measure("a"), lambda: measure("b")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == [[1.0, 4.0, 5.0], [2.0, 3.0, 6.0]]


def test_all_four_kinds_of_exit_are_measured() -> None:
    kinds = exits.measure(accesses=50, rounds=3)
    assert [kind.name for kind in kinds] == ["out", "in", "mmio_read", "mmio_write"]
    assert all(kind.ratio.first > 0 and kind.ratio.second > 0 for kind in kinds)
    assert exits.worst(kinds).ratio.ratio == max(kind.ratio.ratio for kind in kinds)


@pytest.mark.parametrize("loop", mips.LOOPS, ids=lambda loop: loop.name)
def test_each_loop_ends_after_its_count_on_both(loop: mips.Loop) -> None:
    bare, whole = BareUnicorn(), WholeMachine()
    try:
        whole.power_on()
        code = mips.assemble(loop, 1000)
        bare.load(code)
        bare.run()
        whole.load(code)
        whole.run()
        found = whole.machine.engine.registers()
    finally:
        bare.close()
        whole.close()
    assert found["rcx"] == 0
    assert found["rip"] == 0x2000 + len(code) - len(loop.after)


def test_every_interrupt_reaches_its_handler() -> None:
    found = irq.measure(rounds=20)
    assert 0 < found.chip <= found.chip_p99
    assert 0 < found.thread <= found.thread_p99


def test_a_start_ends_before_the_guests_first_instruction() -> None:
    """hello would end with another status, and take more time than to its first instruction."""
    start = boot.measure_start(resolve("hello"), None, rounds=1)
    assert list(start.phases) == list(boot.PHASES)
    assert start.first == pytest.approx(sum(start.phases.values()) - start.phases["run"])
    assert start.touched_kib > 0


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match="nothing: cannot be read: No such file"):
        boot.measure_start(str(tmp_path / "nothing"), None, rounds=1)


def test_the_command_prints_json_or_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = bench.Report({"ratio": 1.25}, ("what", "ratio"), [["exit", "1.25"]], "a foot")
    monkeypatch.setitem(bench.BENCHES, "exits", lambda _draft: report)
    out = io.StringIO()
    assert bench.run(["exits", "--json", "-"], out) == 0
    assert json.loads(out.getvalue()) == {"schema": 1, "bench": "exits", "ratio": 1.25}
    out, target = io.StringIO(), tmp_path / "bench.json"
    assert bench.run(["exits", "--json", str(target)], out) == 0
    assert out.getvalue().splitlines() == ["exits", "  what  ratio", "  exit   1.25", "a foot"]
    assert json.loads(target.read_text())["ratio"] == 1.25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bench needs one of exits, mips, boot, irq"),
        (["exist"], '"exist" is no benchmark'),
        (["exits", "mips"], 'one benchmark a run, "exits" came before it'),
        (["exits", "-kernel", "bzImage"], "are for the benchmark boot, not for exits"),
        (["boot", "-initrd", "initrd"], "-initrd needs -kernel FILE"),
    ],
)
def test_a_wrong_command_line_is_told(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run(words, io.StringIO())
