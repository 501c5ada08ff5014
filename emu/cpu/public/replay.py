"""Device accesses that are not made twice, where an instruction begins anew."""

from collections import deque
from typing import Final

READ, WRITE, IN = range(3)
Access = tuple[int, int, int]
"""READ, WRITE or IN; address; width."""
_KEPT: Final = 8
"""Accesses of one instruction, or of one round of a repeated one."""


class Replay:
    """Remembers the last accesses; answers them once more after `begin`. vCPU thread."""

    def __init__(self) -> None:
        self._recent: deque[tuple[Access, int]] = deque(maxlen=_KEPT)
        self.add = self._recent.append
        """Remember ((kind, address, width), value)."""
        self.answers: list[tuple[Access, int]] = []
        """Empty: every access is a new one, and `answer` need not be asked."""
        self._at = 0

    def begin(self) -> None:
        """The instruction that made the last accesses begins anew."""
        self.answers, self._at = list(self._recent), -1

    def answer(self, access: Access) -> int | None:
        """What the access gave before, None for a new one: from there on all are new."""
        answers, at = self.answers, self._at
        if at < 0:  # the instruction's accesses are the last ones: look for its first from the end
            at = next((i for i in range(len(answers) - 1, -1, -1) if answers[i][0] == access), len(answers))
        if at < len(answers) and answers[at][0] == access:
            self._at = at + 1
            return answers[at][1]
        self.answers = []
        return None
