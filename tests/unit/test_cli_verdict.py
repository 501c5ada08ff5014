"""The judge of a guest's output, and the JUnit file."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli import junit
from emu.cli.smoke import decide, verdict_line
from emu.cli.verdict import CARRY, LAST_LINES, LINE_LIMIT, PANIC, Judge, Verdict
from emu.config import Outcome, OutcomeKind


def judge(expect: str = "PASS", reject: str | None = None, panic: str | None = PANIC) -> Judge:
    compiled = [None if text is None else re.compile(text, re.MULTILINE) for text in (expect, reject, panic)]
    assert compiled[0] is not None
    return Judge(compiled[0], compiled[1], compiled[2])


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_match_is_found_however_the_bytes_arrive(step: int) -> None:
    text, found = b"booting\r\ntest PASS now\r\nlogin: ", judge("login: ")
    for start in range(0, len(text), step):
        assert found.verdict is None
        found.feed(text[start : start + step])
    assert found.verdict is Verdict.MATCHED


def test_a_prompt_without_a_newline_is_enough() -> None:
    assert judge("login: $|login: ").feed(b"host login: ") is Verdict.MATCHED


def test_a_line_end_is_not_certain_before_the_line_has_ended() -> None:
    found = judge("PASS$")
    assert found.feed(b"PASS") is None
    assert found.feed(b"ED\n") is None
    assert found.feed(b"PASS") is None
    assert found.feed(b"\r\n") is Verdict.MATCHED


def test_the_end_of_the_output_ends_its_line() -> None:
    found = judge("PASS$")
    found.feed(b"PASS")
    assert found.finish() is Verdict.MATCHED


def test_in_one_line_reject_goes_before_expect_and_expect_before_panic() -> None:
    assert judge("PASS", reject="with 1 error").feed(b"PASS with 1 error\n") is Verdict.REJECTED
    line = b"Kernel panic - not syncing: PASS\n"
    assert judge("PASS").feed(line) is Verdict.MATCHED
    assert judge("FINE").feed(line) is Verdict.PANIC


def test_the_first_line_decides() -> None:
    assert judge("PASS", reject="FAIL").feed(b"PASS\nFAIL\n") is Verdict.MATCHED
    assert judge("PASS", reject="FAIL").feed(b"FAIL\nPASS\n") is Verdict.REJECTED


def test_a_verdict_stays() -> None:
    found = judge("PASS", reject="FAIL")
    found.feed(b"PASS\n")
    assert found.feed(b"FAIL\n") is Verdict.MATCHED


@pytest.mark.parametrize(
    "line",
    [
        "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "[    1.2] BUG: unable to handle page fault for address: 0000000000001234",
        "[    1.2] Oops: 0002 [#1] PREEMPT SMP",
        "[    1.2] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        "panic: trap",
        "cpu with apicid 0: panic: acquire",
        "Fatal trap 12: page fault while in kernel mode",
    ],
)
def test_panic_text_of_well_known_kernels_is_recognised(line: str) -> None:
    found = judge()
    assert found.feed(line.encode() + b"\n") is Verdict.PANIC
    assert found.matched_text() in line


@pytest.mark.parametrize(
    "line",
    [
        "Kernel command line: panic=-1 oops=panic",
        "traps: a.out[77] general protection fault ip:401000 sp:7ffe error:0 in a.out[401000+1000]",
        "Loops: 3",
    ],
)
def test_ordinary_lines_are_no_panic(line: str) -> None:
    assert judge().feed(line.encode() + b"\n") is None


def test_a_pattern_may_span_lines_within_reach() -> None:
    assert judge("one\ntwo").feed(b"one\r\ntwo\r\n") is Verdict.MATCHED
    far = judge("one[^@]*two")
    far.feed(b"one\n")
    far.feed(b"x" * 100 + b"\n")
    assert far.feed(b"two\n") is Verdict.MATCHED
    too_far = judge("one[^@]*two")
    too_far.feed(b"one\n" + (b"x" * 100 + b"\n") * (CARRY // 100 + 1))
    assert too_far.feed(b"two\n") is None


def test_an_endless_line_is_judged_in_pieces_of_bounded_size() -> None:
    found = judge("needle")
    for _ in range(40):
        found.feed(b"x" * 4000)
    assert len(found._line) < LINE_LIMIT
    assert found.feed(b"needle") is Verdict.MATCHED


def test_the_tail_is_the_last_lines_and_safe_to_print() -> None:
    found = judge()
    found.feed(b"".join(b"line %d\n" % n for n in range(100)) + b"\x1b[2J\tend\x00")
    tail = found.tail()
    assert len(tail) == LAST_LINES
    assert tail[-2:] == ["line 99", "\N{REPLACEMENT CHARACTER}[2J    end\N{REPLACEMENT CHARACTER}"]


@given(st.lists(st.binary(max_size=60), max_size=12))
def test_cutting_the_stream_elsewhere_changes_no_verdict(chunks: list[bytes]) -> None:
    whole, parts = judge("a\n", reject="b\n"), judge("a\n", reject="b\n")
    whole.feed(b"".join(chunks))
    for chunk in chunks:
        parts.feed(chunk)
    assert whole.finish() is parts.finish()
    assert whole.tail() == parts.tail()


ENDS = {
    OutcomeKind.TIMEOUT: Verdict.TIMED_OUT,
    OutcomeKind.HALTED: Verdict.HALTED,
    OutcomeKind.TRIPLE_FAULT: Verdict.TRIPLE_FAULT,
    OutcomeKind.POWER_OFF: Verdict.EARLY_EXIT,
    OutcomeKind.DEBUG_EXIT: Verdict.EARLY_EXIT,
    OutcomeKind.RESET: Verdict.EARLY_EXIT,
}


@pytest.mark.parametrize("kind", ENDS)
def test_without_a_deciding_line_the_end_decides(kind: OutcomeKind) -> None:
    assert decide(judge(), Outcome(kind, 5)) is ENDS[kind]


def test_output_goes_before_the_end() -> None:
    found = judge()
    found.feed(b"PASS")
    assert decide(found, Outcome(OutcomeKind.HALTED)) is Verdict.MATCHED


def test_every_verdict_has_its_own_status() -> None:
    assert sorted(verdict.value for verdict in Verdict) == [0, *range(10, 17)]


def test_the_verdict_line_says_what_and_why() -> None:
    found = judge()
    early = verdict_line(Verdict.EARLY_EXIT, found, Outcome(OutcomeKind.DEBUG_EXIT, 5), 1.0)
    assert early == "ended early: isa-debug-exit with 0x5, after 1.00 s"
    found.feed(b"PASS\n")
    matched = verdict_line(Verdict.MATCHED, found, Outcome(OutcomeKind.STOPPED), 0.5)
    assert matched == 'matched: "PASS", after 0.50 s'


def test_the_junit_file_counts_and_shows_the_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.xml"
    junit.write(
        str(path), junit.Case("emu.smoke", 'a<"b"', 1.5, "rejected", "rejected: FAIL & more", "x < y")
    )
    root = ET.parse(path).getroot()
    assert root.get("failures") == "1"
    case = root.find("testsuite/testcase")
    assert case is not None
    assert (case.get("name"), case.get("time")) == ('a<"b"', "1.500")
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("type") == "rejected"
    assert case.findtext("system-out") == "x < y"


def test_the_junit_file_of_a_pass_has_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.xml"
    junit.write(str(path), junit.Case("emu.smoke", "a", 1.5, "matched", "", ""))
    root = ET.parse(path).getroot()
    assert root.get("failures") == "0"
    assert root.find(".//failure") is None
