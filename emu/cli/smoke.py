"""`emu smoke`: run a guest until its output decides."""

import contextlib
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

from emu.bus.output_file import check_output
from emu.cli import junit
from emu.cli.chardev import open_device
from emu.cli.flags import TABLE, extra_option, parse_flags
from emu.cli.machine_flags import finish
from emu.cli.options import help_text
from emu.cli.output import Sink
from emu.cli.run import (
    build,
    check_reports,
    connect,
    connect_ports,
    find_image,
    is_kernel,
    open_chardevs,
    run_board,
    write_reports,
)
from emu.cli.session import Cause, Session
from emu.cli.verdict import PANIC, Judge, Verdict
from emu.cli.watch import GuestWatch
from emu.config import MachineConfig, Outcome, OutcomeKind
from emu.errors import ConfigError

DEFAULT_TIMEOUT_S: Final = 60.0
USAGE: Final = """\
usage: emu smoke IMAGE --expect RE [--reject RE] [--panic RE] [--timeout S] [--junit FILE] [emu run's flags]

Run a guest until what it prints on COM1 decides. -serial stdio shows it, too, -serial file:PATH keeps it."""
EPILOG: Final = """\
exit status: 0 matched, 10 rejected, 11 timed out, 12 guest halted with interrupts off, 13 triple fault,
14 guest panic text, 15 guest ended before a match, 16 firmware or boot loader found nothing to boot;
1 internal error, 2 bad command line, 128 + N signal N.
In one line --reject goes before --expect, and --expect before --panic."""
OPTIONS: Final = (
    extra_option("expect", "RE", "the guest is well once it prints this (Python's re, lines with ^ and $)"),
    extra_option("expect-screen", "RE", "the guest is well once its text screen shows this"),
    extra_option("reject", "RE", "the guest has failed once it prints this"),
    extra_option("panic", "RE", "what counts as panic text instead of the usual; empty: nothing does"),
    extra_option("junit", "FILE", "write the verdict as a JUnit test case"),
)
BY_OUTCOME: Final = {
    OutcomeKind.TIMEOUT: Verdict.TIMED_OUT,
    OutcomeKind.HALTED: Verdict.HALTED,
    OutcomeKind.TRIPLE_FAULT: Verdict.TRIPLE_FAULT,
}
WORDS: Final = {
    Verdict.MATCHED: "matched",
    Verdict.REJECTED: "rejected",
    Verdict.TIMED_OUT: "timed out",
    Verdict.HALTED: "guest halted with interrupts off",
    Verdict.TRIPLE_FAULT: "triple fault",
    Verdict.PANIC: "guest panic",
    Verdict.EARLY_EXIT: "ended early",
    Verdict.UNBOOTABLE: "nothing to boot",
}


class JudgingSink:
    """Shows each batch to the judge and to `also`; `session` ends once the verdict is there."""

    def __init__(self, judge: Judge, also: Sink) -> None:
        self._judge, self._also = judge, also
        self.session: Session | None = None

    def write(self, data: bytes) -> None:
        """Judge it and pass it on."""
        self._also.write(data)
        if self._judge.feed(data) is not None and self.session is not None:
            self.session.stop(Cause.VERDICT)

    def ready(self) -> bool:
        """True where passing on would not block."""
        return self._also.ready()


def run(argv: list[str], out: TextIO) -> int:
    """Run the guest, print the verdict, return its exit status."""
    draft = parse_flags(argv, OPTIONS)
    if draft.help:
        out.write(help_text(USAGE, (*OPTIONS, *TABLE), EPILOG))
        return 0
    if "expect" not in draft.extra and "expect-screen" not in draft.extra:
        raise ConfigError('smoke needs --expect RE, such as --expect "login:"')
    judge = Judge(
        expect=_pattern("expect", draft.extra["expect"]) if "expect" in draft.extra else None,
        screen=_pattern("expect-screen", draft.extra["expect-screen"])
        if "expect-screen" in draft.extra
        else None,
        reject=_pattern("reject", draft.extra["reject"]) if "reject" in draft.extra else None,
        panic=_pattern("panic", draft.extra.get("panic", PANIC)) if draft.extra.get("panic") != "" else None,
    )
    if draft.image is not None:
        draft.image = find_image(draft.image)
    config = finish(draft, is_kernel)
    if config.display != "none" or config.monitor not in ("mux", "none"):
        raise ConfigError("smoke has no display and no monitor; emu run has -display and -monitor")
    if config.timeout_s is None:
        config = replace(config, timeout_s=DEFAULT_TIMEOUT_S)
    check_reports(config)
    if "junit" in draft.extra:
        check_output(draft.extra["junit"])
    begun = time.monotonic()
    session, outcome, rip = _run_machine(config, judge, config.serial if draft.serials else "none", out)
    seconds = time.monotonic() - begun
    if session.cause is Cause.SIGNAL:
        print(f"ended by {signal.Signals(session.signal_number).name}, guest at {rip}", file=out)
        return 128 + session.signal_number
    verdict = decide(judge, outcome)
    line = verdict_line(verdict, judge, outcome, seconds)
    lines = judge.tail()
    if judge.screen_lines and verdict is not Verdict.MATCHED:
        lines += ["on the screen:", *judge.screen_lines]
    print(line, *(f"  | {text}" for text in lines), f"guest at {rip}", sep="\n", file=out)
    if "junit" in draft.extra:
        failure = "" if verdict is Verdict.MATCHED else f"{line}, guest at {rip}"
        name = config.name or Path(config.kernel or "guest").name
        kind = WORDS[verdict]
        junit.write(
            draft.extra["junit"], junit.Case("emu.smoke", name, seconds, kind, failure, "\n".join(lines))
        )
    return verdict.value


def decide(judge: Judge, outcome: Outcome) -> Verdict:
    """The verdict once the run has ended: by its output, else by its end."""
    return judge.finish() or BY_OUTCOME.get(outcome.kind, Verdict.EARLY_EXIT)


def verdict_line(verdict: Verdict, judge: Judge, outcome: Outcome, seconds: float) -> str:
    """What the user reads first."""
    why = ""
    if judge.verdict is not None:
        why = f': "{judge.matched_text()}"'
    elif verdict is Verdict.EARLY_EXIT:
        why = f": {outcome.kind.value}"
        if outcome.kind is OutcomeKind.DEBUG_EXIT:
            why += f" with {outcome.value:#x}"
    return f"{WORDS[verdict]}{why}, after {seconds:.2f} s"


def _run_machine(
    config: MachineConfig, judge: Judge, serial: str, out: TextIO
) -> tuple[Session, Outcome, str]:
    """Run one machine under the judge; return its session, its end and the guest's place."""
    with (
        open_device(serial, "serial0", "-serial", out) as shown,
        open_chardevs(config, out) as chardevs,
    ):
        sink = JudgingSink(judge, shown.sink)
        source = None if serial.endswith("stdio") else shown.source  # nobody types in a test
        with Session(config, sink, source, keys=False) as session:
            sink.session = session
            connect(session, shown)
            board = build(config, session)
            with contextlib.closing(board.machine) as machine:
                connect_ports(session, machine, chardevs)
                session.add_part(GuestWatch(machine, judge, lambda: session.stop(Cause.VERDICT)))
                outcome = run_board(session, board)
                judge.see_screen(machine.screen_text())
                if session.cause is Cause.VERDICT and judge.verdict is not Verdict.MATCHED:
                    board.check_inputs()
                write_reports(config, machine, out)
                return session, outcome, machine.rip_text()


def _pattern(name: str, text: str) -> re.Pattern[str]:
    """Compile a user's pattern. Raises ConfigError."""
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise ConfigError(f'--{name}: "{text}" is no regular expression: {error}') from None
