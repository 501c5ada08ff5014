"""A person at Linux' shell by `-nographic`: typing, Ctrl-C, window sizes, and the Ctrl-A keys."""

import re
import signal
from collections.abc import Iterator

import pytest

from tests.os.debian import Debian
from tests.os.terminal import Terminal

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def debian() -> Debian:
    return Debian("6.1")


@pytest.fixture
def person(debian: Debian) -> Iterator[Terminal]:
    words = ["-nographic", "-m", "256M", "-kernel", debian.kernel, "-initrd", debian.initrd]
    terminal = Terminal(
        [*words, "-nic", "none", "-append", "console=ttyS0 quiet sysrq_always_enabled job=shell"]
    )
    terminal.expect_log("# ")
    yield terminal
    terminal.close()


def runs(person: Terminal, line: str, answer: str) -> None:
    """Type a line; the guest's answer comes."""
    since = len(person.log)
    person.type(f"{line}\r")
    person.expect_log(answer, since)
    person.expect_log("# ", since)


def test_a_session_from_typing_to_ctrl_a_x(person: Terminal) -> None:
    runs(person, "echo typed-$((40+2))", "\ntyped-42")

    person.resize(132, 43)
    person.signal(signal.SIGWINCH)
    runs(person, "echo resized-$((40+2))", "\nresized-42")

    since = len(person.log)
    person.type("sh -c 'echo asleep-$((40+2)); exec sleep 1000'\r")
    person.expect_log("\nasleep-42", since)
    person.type(b"\x03")
    person.expect_log("# ", person.expect_log("^C", since))
    runs(person, "echo status-$?", "\nstatus-130")
    runs(person, "pidof sleep || echo no-$((40+2))", "\nno-42")

    since = len(person.log)
    person.type("\x01h")
    at = person.expect_log("Ctrl-A X", since)
    person.expect_log("Ctrl-A B", at)

    since = len(person.log)
    person.type("\x01c")
    at = person.expect_log("(qemu) ", since)
    assert "emu" in person.log[since:at]
    person.type("info statsu\x7f\x7fus\r")
    at = person.expect_log("VM status: running", at)
    at = person.expect_log("(qemu) ", at)
    person.type("\x03nonsense\r")
    at = person.expect_log('unknown command "nonsense"', at)
    person.type("\x01c")
    runs(person, "echo back-$((40+2))", "\nback-42")

    since = len(person.log)
    person.type("\x01bh")  # the kernel's: a break, then the letter of a command
    person.expect_log("sysrq: HELP", since)

    person.type("\x01x")
    assert person.finish() == 0


def test_the_guest_powers_off_and_the_terminal_is_as_before(person: Terminal) -> None:
    person.type("poweroff -f\r")
    assert person.finish() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_the_terminal_is_as_before(
    person: Terminal, number: signal.Signals
) -> None:
    person.signal(number)
    assert person.finish() == 128 + number
    assert re.search(rf"emu: ended by {number.name}, guest at 0x[0-9a-f]+", person.log)
