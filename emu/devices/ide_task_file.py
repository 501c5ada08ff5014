"""What software sees of a drive on the cable: its registers, and the words that pass the data port.

Source: ATA/ATAPI-6 (T13/1410D): 7 (registers), 9.12 (signature).
"""

# Command block registers, by offset
ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS = 1, 2, 3, 4, 5, 6, 7
FEATURES = ERROR

BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01  # Status
READY = DRDY | DSC
UNC, IDNF, ABRT = 0x40, 0x10, 0x04  # Error
DIAGNOSTIC_PASSED = 0x01


class TaskFile:
    """One drive's registers, and the block of its `buffer` that the data port is open for.

    The channel writes `registers`, moves words through `words[index]` up to `read_end` or `write_end`, and
    clears `intrq` when Status is read. All else is the drive's: it opens the data port for one block at a
    time, and says in `status`, `error` and `intrq` how its command goes.
    """

    __slots__ = (
        "dwords",
        "error",
        "index",
        "intrq",
        "previous",
        "read_end",
        "registers",
        "status",
        "words",
        "write_end",
    )

    def __init__(self, buffer: memoryview) -> None:
        self.words = buffer.cast("H")  # a little-endian host's view of the drive's words
        self.dwords = buffer.cast("I")
        self.registers = [0] * 8  # what was written last, by offset
        self.previous = [0] * 8  # and before that: the high-order bytes of 48-bit commands
        self.status = self.error = 0
        self.intrq = False
        self.close()

    def close(self) -> None:
        """No words are left to move: reads give 0, writes go nowhere."""
        self.index = self.read_end = self.write_end = 0

    def offer(self, first: int, end: int) -> None:
        """Open the data port for reads of the words `first` up to `end`."""
        self.index, self.read_end = first, end

    def ask(self, words: int) -> None:
        """Open the data port for writes of the buffer's first `words` words."""
        self.index, self.write_end = 0, words

    def begin(self) -> None:
        """A command begins. What it does not change ends it: ready, no error, an interrupt."""
        self.status, self.error, self.intrq = READY, 0, True

    def end_reset(self, status: int, low: int, high: int) -> None:
        """A reset or EXECUTE DEVICE DIAGNOSTIC ends, all is well; see `show_signature`."""
        self.show_signature(low, high)
        self.registers[DEVICE] = 0
        self.status, self.error = status, DIAGNOSTIC_PASSED

    def show_signature(self, low: int, high: int) -> None:
        """Say what kind of drive this is: by what follows a one in Sector Count and in LBA Low (9.12)."""
        self.registers[COUNT:DEVICE] = [1, 1, low, high]
