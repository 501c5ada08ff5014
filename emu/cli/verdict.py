"""Judging a guest by what it prints: streaming, in bounded memory, as soon as it is certain."""

import enum
import re
from collections import deque
from typing import Final

CARRY: Final = 4096  # characters of earlier output that a pattern may reach back to
LINE_LIMIT: Final = 16384  # bytes; a longer line is judged in pieces
LAST_LINES: Final = 20
PANIC: Final = (
    r"(?:Kernel panic - not syncing|\bOops: |BUG: (?:unable to handle|soft lockup)|kernel BUG at "
    r"|general protection fault[:,]|\b[Pp]anic: |PANIC: |Fatal trap \d).*"
)
UNBOOTABLE: Final = re.compile(r"^(?:No bootable device\.|grub rescue>).*", re.MULTILINE)
"""What SeaBIOS and GRUB say where they find nothing to start; they only wait then."""


class Verdict(enum.Enum):
    """How a smoke test ended; the value is the exit status."""

    MATCHED = 0
    REJECTED = 10
    TIMED_OUT = 11
    HALTED = 12
    TRIPLE_FAULT = 13
    PANIC = 14
    EARLY_EXIT = 15
    UNBOOTABLE = 16


Rule = tuple[re.Pattern[str] | None, Verdict]


class Judge:
    r"""Reads the guest's output and decides. `verdict` is None until it is certain, then fixed.

    In one line, `reject` goes before `expect`, and that before the rest; otherwise the first line decides.
    Patterns see lines with "\n" at their ends and may span several; `^` and `$` are those of a line.
    A line still being printed is judged by `expect` and `reject`, where no next character can undo a match.
    `matched` is the text that decided. `screen` is expected of the text screen, where a guest's death shows,
    too; `screen_lines` are those last seen there.
    """

    def __init__(
        self,
        expect: re.Pattern[str] | None,
        reject: re.Pattern[str] | None,
        panic: re.Pattern[str] | None,
        screen: re.Pattern[str] | None = None,
    ) -> None:
        dead: list[Rule] = [(UNBOOTABLE, Verdict.UNBOOTABLE), (panic, Verdict.PANIC)]
        self._rules: list[Rule] = [(reject, Verdict.REJECTED), (expect, Verdict.MATCHED), *dead]
        self._screen_rules: list[Rule] = [(screen, Verdict.MATCHED), *dead]
        self.screen_lines: list[str] = []
        self._carry = ""
        self._line = bytearray()
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.verdict: Verdict | None = None
        self.matched = ""

    def feed(self, data: bytes) -> Verdict | None:
        """Read on; return the verdict so far."""
        start = 0
        while start < len(data):
            newline = data.find(b"\n", start)
            end = len(data) if newline < 0 else newline + 1
            end = min(end, start + LINE_LIMIT - len(self._line))
            self._line += data[start:end]
            if self._line.endswith(b"\n") or len(self._line) >= LINE_LIMIT:
                self._finish_line()
            start = end
        if self._line and self.verdict is None:
            self._judge_unfinished()
        return self.verdict

    def see_screen(self, text: str) -> bool:
        """Judge the text screen as it is now; True once there is a verdict."""
        if self.verdict is None:
            self._decide(text, self._screen_rules, len(text))
            self.screen_lines = [_printable(line) for line in text.splitlines() if line]
        return self.verdict is not None

    def finish(self) -> Verdict | None:
        """The output has ended: judge the rest as a whole line."""
        if self._line:
            self._finish_line()
        return self.verdict

    def matched_text(self) -> str:
        """What decided, on one line."""
        return _printable(self.matched.strip().replace("\n", " ")[:200])

    def tail(self) -> list[str]:
        """The last lines, without what a terminal would act on."""
        lines = [*self.last_lines, *([_text(self._line)] if self._line else [])]
        return [_printable(line) for line in lines[-LAST_LINES:]]

    def _finish_line(self) -> None:
        line = _text(self._line)
        self._line.clear()
        self.last_lines.append(line.rstrip("\n"))
        if self.verdict is None:
            text = self._carry + line
            self._decide(text, self._rules, len(text))
            self._carry = text[-CARRY:]

    def _judge_unfinished(self) -> None:
        """Judge text that may go on: a match that the next character could undo does not count."""
        text = self._carry + _text(self._line)
        self._decide(text + "\0", self._rules[:2], len(text))

    def _decide(self, text: str, rules: list[Rule], end: int) -> None:
        for pattern, verdict in rules:
            found = pattern.search(text) if pattern is not None else None
            if found is not None and found.end() <= end:
                self.verdict, self.matched = verdict, found.group()
                return


def _text(line: bytearray) -> str:
    """One line as text; the carriage return before its newline goes."""
    text = line.decode("utf-8", "replace")
    return text[:-2].rstrip("\r") + "\n" if text.endswith("\r\n") else text


def _printable(line: str) -> str:
    """Without control characters, for a terminal and for XML."""
    shown = line.replace("\t", "    ")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
