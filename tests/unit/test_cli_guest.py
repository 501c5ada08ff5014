"""`emu run` and `emu smoke` with a real guest: what goes where, and the exit status."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli_lab import command

HELLO = str(Path(__file__).resolve().parents[2] / "guest-images/built/hello.elf")
EXIT_PORT = ("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04")
DONE = 0x10 << 1 | 1


def test_the_same_words_that_qemu_takes_run_the_guest() -> None:
    words = ("-machine", "pc", "-kernel", HELLO, "-display", "none", "-serial", "stdio", "-no-reboot")
    shown = command("run", *words, *EXIT_PORT)
    assert (shown.stdout, shown.stderr, shown.returncode) == ("hello\n", "", DONE)


def test_a_built_image_is_found_by_its_name() -> None:
    assert command("run", "hello", *EXIT_PORT).stdout == "hello\n"


def test_a_guest_that_halts_for_good_is_told_with_its_place() -> None:
    shown = command("run", HELLO)
    assert (shown.stdout, shown.returncode) == ("hello\n", 4)
    assert "emu: guest halted with interrupts off at 0x" in shown.stderr


def test_serial_output_can_go_to_a_file_or_nowhere(tmp_path: Path) -> None:
    log = tmp_path / "a,b.log"
    assert command("run", HELLO, *EXIT_PORT, "-serial", f"file:{log}").stdout == ""
    assert log.read_text() == "hello\n"
    assert command("run", HELLO, *EXIT_PORT, "-serial", "null").stdout == ""


def test_a_serial_file_that_cannot_be_made_is_a_bad_command_line() -> None:
    shown = command("run", HELLO, "-serial", "file:/nonexistent/log")
    assert (shown.returncode, shown.stderr) == (
        2,
        "emu: -serial: /nonexistent/log: No such file or directory; make its folder first\n",
    )


def test_exits_are_listed_beside_the_output_or_in_a_file(tmp_path: Path) -> None:
    shown = command("run", HELLO, *EXIT_PORT, "--exits")
    assert shown.stdout == "hello\n"
    assert "com1    " in shown.stderr
    file = tmp_path / "exits.json"
    assert command("run", HELLO, *EXIT_PORT, f"--exits={file}").stderr == ""
    rows = json.loads(file.read_text())["rows"]
    assert [row["accesses"] for row in rows if (row["device"], row["register"]) == ("com1", "THR")] == [6]


def test_exits_can_be_told_by_function_and_time(tmp_path: Path) -> None:
    file = tmp_path / "exits.json"
    assert command("run", HELLO, *EXIT_PORT, f"--exits=symbols,time,{file}").returncode == DONE
    document = json.loads(file.read_text())
    found = {row["function"]: row for row in document["spent"] if row["register"] == "THR"}
    assert sum(row["accesses"] for row in found.values()) == 6
    assert all(row["ns"] > 0 and not name.startswith("0x") for name, row in found.items())
    shown = command("run", HELLO, *EXIT_PORT, "--exits=symbols")
    assert "function\n" in shown.stderr
    assert "ns" not in shown.stderr.split()


def test_a_trace_has_an_event_for_every_access(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert command("run", HELLO, *EXIT_PORT, "--trace", str(file)).returncode == DONE
    events = json.loads(file.read_text())["traceEvents"]
    assert sum(event["name"] == "com1 THR write" for event in events) == 6


@pytest.mark.parametrize(
    ("words", "status", "verdict"),
    [
        (("--expect", "^hello$"), 0, "matched"),
        (("--expect", "hello", "--reject", "hell"), 10, "rejected"),
        (("--expect", "goodbye"), 12, "guest halted with interrupts off"),
        (("--expect", "goodbye", *EXIT_PORT), 15, "ended early"),
        (("--expect", "goodbye", "--panic", "hel+o"), 14, "guest panic"),
    ],
)
def test_smoke_has_a_status_for_each_verdict(
    words: tuple[str, ...], status: int, verdict: str, tmp_path: Path
) -> None:
    report = tmp_path / "out.xml"
    shown = command("smoke", HELLO, "--junit", str(report), *words)
    assert shown.returncode == status, shown.stderr
    assert shown.stdout.startswith(verdict)
    assert "\n  | hello\nguest at 0x" in shown.stdout
    failure = ET.parse(report).getroot().find(".//failure")
    assert (failure is None) == (status == 0)
    assert failure is None or failure.get("type") == verdict


def test_smoke_can_show_the_output_as_well() -> None:
    shown = command("smoke", HELLO, "--expect", "hello", "-serial", "stdio")
    assert shown.stdout.startswith("hello\nmatched")
