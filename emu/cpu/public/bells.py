"""Doorbells in Python: the exit is not saved, only the device."""

import os


class Bells:
    """The ioeventfds of all areas: address -> eventfd and how often it rang. vCPU thread."""

    def __init__(self) -> None:
        self._bells: dict[int, list[int]] = {}

    def add(self, gpa: int, fd: int) -> bool:
        """Let stores at `gpa` end at eventfd `fd`."""
        self._bells[gpa] = [fd, 0]
        return True

    def remove(self, gpa: int) -> int:
        """Take one away; returns how often it rang."""
        return self._bells.pop(gpa, [0, 0])[1]

    def count(self, gpa: int) -> int:
        """How often the bell at `gpa` rang."""
        return self._bells.get(gpa, [0, 0])[1]

    def ring(self, gpa: int) -> bool:
        """A store at `gpa`: signal, where a bell is."""
        bell = self._bells.get(gpa)
        if bell is None:
            return False
        bell[1] += 1
        os.eventfd_write(bell[0], 1)
        return True
