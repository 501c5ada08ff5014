"""A CD-ROM's logical unit: packet commands in, answers or sense data out. Knows no register and no bus.

Sources: MMC-5 (T10/1675-D), chapters 5 (features) and 6 (commands); SPC-3, 4.5 (sense data), 6.4 (INQUIRY);
MMC-3, 5.5.10 (capabilities page); INF-8090 for GET EVENT STATUS NOTIFICATION's polled form.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from emu.devices.block.backend import BlockBackend

BLOCK = 2048
PACKET = 12

NO_SENSE, NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION = 0x0, 0x2, 0x3, 0x5, 0x6
INVALID_OPCODE, LBA_OUT_OF_RANGE, INVALID_FIELD = (0x20, 0), (0x21, 0), (0x24, 0)
UNRECOVERED_READ, MEDIUM_CHANGED, NO_SAVED_PAGES = (0x11, 0), (0x28, 0), (0x39, 0)
NO_MEDIUM, NO_MEDIUM_TRAY_OPEN, REMOVAL_PREVENTED = (0x3A, 1), (0x3A, 2), (0x53, 2)

TRACK, LEAD_OUT = 0x14, 0xAA  # a data track, Q sub-channel with position; the lead-out's number
LEAD_IN_BLOCKS, FRAMES, SECONDS = 150, 75, 60  # two seconds before LBA 0; a second; a minute
PAGE_ERROR_RECOVERY, PAGE_CAPABILITIES, ALL_PAGES = 0x01, 0x2A, 0x3F
PROFILE_CD_ROM, PROFILE_DVD_ROM = 0x0008, 0x0010
CD_BLOCKS = 80 * SECONDS * FRAMES  # a larger disc must be a DVD
SPEED_KB = 706  # 4x
MEDIA_CLASS, MEDIA_EVENTS = 4, 0x10
NO_CHANGE, EJECT_DONE, NEW_MEDIUM = 0, 3, 2  # media events


class CheckConditionError(Exception):
    """A command fails; the host may ask why by REQUEST SENSE."""

    def __init__(self, key: int, code: tuple[int, int]) -> None:
        super().__init__(key, code)
        self.key, self.code = key, code


@dataclass(frozen=True, slots=True)
class Blocks:
    """The answer is `count` blocks of the medium from `lba` on."""

    lba: int
    count: int


Answer = bytes | Blocks
"""A command's data, already cut to the allocation length; none where empty."""


class _Command(NamedTuple):
    run: Callable[[bytes], Answer]
    needs_medium: bool
    ignores_attention: bool  # works while a unit attention waits, and leaves it waiting


@dataclass(frozen=True)
class _Feature:
    number: int
    version: int
    persistent: bool
    current: bool
    data: bytes


class CdUnit:
    """The drive's logical unit with a disc, or none. `execute` is all that the transport calls."""

    def __init__(self, medium: BlockBackend | None) -> None:
        self._medium = medium
        self._commands = self._command_table()
        self.reset()

    def reset(self) -> None:
        """Power-on: tray closed and unlocked, nothing to report."""
        self.locked = self.tray_open = False
        self.sense: tuple[int, tuple[int, int]] = (NO_SENSE, (0, 0))
        self._attention = False
        self._event = NO_CHANGE

    @property
    def medium(self) -> BlockBackend | None:
        """The disc, where it can be read now."""
        return None if self.tray_open else self._medium

    @property
    def blocks(self) -> int:
        """How many blocks the disc has; 0 without one."""
        medium = self.medium
        return medium.size // BLOCK if medium is not None else 0

    def change_medium(self, medium: BlockBackend | None) -> None:
        """Someone has put in another disc, or taken it out, even where the host locked the tray."""
        self._medium, self.tray_open = medium, False
        self._medium_changed()

    def _medium_changed(self) -> None:
        self._attention = self.medium is not None
        self._event = NEW_MEDIUM if self._attention else EJECT_DONE

    def execute(self, packet: bytes) -> Answer:
        """Carry out a packet of 12 bytes. Raises CheckConditionError; REQUEST SENSE then tells why."""
        command = self._commands.get(packet[0])
        try:
            if command is None:
                raise CheckConditionError(ILLEGAL_REQUEST, INVALID_OPCODE)
            if not command.ignores_attention:
                if self._attention:
                    self._attention = False
                    raise CheckConditionError(UNIT_ATTENTION, MEDIUM_CHANGED)
                self.sense = (NO_SENSE, (0, 0))
            if command.needs_medium and self.medium is None:
                raise CheckConditionError(NOT_READY, NO_MEDIUM_TRAY_OPEN if self.tray_open else NO_MEDIUM)
            return command.run(packet)
        except CheckConditionError as failure:
            self.sense = (failure.key, failure.code)
            raise

    def read_failed(self) -> CheckConditionError:
        """The medium failed under a read: the condition, remembered for REQUEST SENSE."""
        self.sense = (MEDIUM_ERROR, UNRECOVERED_READ)
        return CheckConditionError(*self.sense)

    def _command_table(self) -> dict[int, _Command]:
        return {
            0x00: _Command(_nothing, True, False),  # TEST UNIT READY
            0x03: _Command(self._request_sense, False, True),
            0x12: _Command(self._inquiry, False, True),
            0x1B: _Command(self._start_stop, False, False),
            0x1E: _Command(self._prevent_allow, False, False),
            0x25: _Command(self._read_capacity, True, False),
            0x28: _Command(self._read_10, True, False),
            0x2B: _Command(self._seek, True, False),
            0x43: _Command(self._read_toc, True, False),
            0x46: _Command(self._get_configuration, False, True),
            0x4A: _Command(self._get_event_status, False, True),
            0x51: _Command(self._read_disc_information, True, False),
            0x5A: _Command(self._mode_sense, False, False),
            0xA8: _Command(self._read_12, True, False),
            0xBB: _Command(_nothing, False, False),  # SET CD SPEED: any is the same
            0xBD: _Command(self._mechanism_status, False, True),
        }

    # ---- what the drive is -------------------------------------------------------------------------

    def _request_sense(self, packet: bytes) -> bytes:
        if self._attention:
            self._attention = False
            self.sense = (UNIT_ATTENTION, MEDIUM_CHANGED)
        key, (asc, ascq) = self.sense
        self.sense = (NO_SENSE, (0, 0))
        return struct.pack(">BxB4xB4xBB4x", 0x70, key, 10, asc, ascq)[: packet[4]]

    def _inquiry(self, packet: bytes) -> bytes:
        if packet[1] & 0x01 or packet[2]:  # vital product data
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        head = bytes((0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0))  # CD/DVD, removable, ATAPI
        answer = head + b"EMU".ljust(8) + b"EMU DVD-ROM".ljust(16) + b"1.0".ljust(4)
        return answer[: _word(packet, 3)]

    def _mode_sense(self, packet: bytes) -> bytes:
        control, page = packet[2] >> 6, packet[2] & 0x3F
        if control == 3:
            raise CheckConditionError(ILLEGAL_REQUEST, NO_SAVED_PAGES)
        pages = {PAGE_ERROR_RECOVERY: bytes(6), PAGE_CAPABILITIES: self._capabilities()}
        wanted = sorted(pages) if page == ALL_PAGES else [page]
        if any(number not in pages for number in wanted):
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        body = b""
        for number in wanted:  # nothing can be changed
            values = pages[number] if control != 1 else bytes(len(pages[number]))
            body += bytes((number, len(values))) + values
        medium_type = 0x01 if self.medium is not None else 0x70
        return (struct.pack(">HB5x", 6 + len(body), medium_type) + body)[: _word(packet, 7)]

    def _capabilities(self) -> bytes:
        mechanism = (
            1 << 5 | 1 << 3 | 1 << 0 | (1 << 1 if self.locked else 0)
        )  # a tray; ejects, locks, is locked
        head = bytes(
            (0x0B, 0x00, 0x70, 0x00, mechanism, 0x00)
        )  # reads CD-R, CD-RW, DVD-ROM; mode 2, sessions
        return head + struct.pack(">HHHHxx2x", SPEED_KB, 2, 512, SPEED_KB)

    def _get_configuration(self, packet: bytes) -> bytes:
        kind, first = packet[1] & 0x03, _word(packet, 2)
        if kind == 3:
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        profile = self._profile()
        body = b""
        for feature in self._features(profile):
            if feature.number < first or (kind == 2 and feature.number != first):
                continue
            if kind != 1 or feature.current:
                flags = feature.version << 2 | feature.persistent << 1 | feature.current
                body += struct.pack(">HBB", feature.number, flags, len(feature.data)) + feature.data
        return (struct.pack(">IxxH", 4 + len(body), profile) + body)[: _word(packet, 7)]

    def _profile(self) -> int:
        if self.medium is None:
            return 0
        return PROFILE_CD_ROM if self.blocks <= CD_BLOCKS else PROFILE_DVD_ROM

    def _features(self, profile: int) -> list[_Feature]:
        """What the drive can do, and what of it with the disc that is in (MMC-5, 5.3)."""
        profiles = b"".join(
            struct.pack(">HBx", each, each == profile) for each in (PROFILE_DVD_ROM, PROFILE_CD_ROM)
        )
        return [
            _Feature(0x00, 0, True, True, profiles),
            _Feature(0x01, 2, True, True, struct.pack(">IB3x", 2, 0)),  # core: ATAPI
            _Feature(0x03, 0, True, True, bytes((0x29, 0, 0, 0))),  # removable medium: tray, eject, lock
            _Feature(0x10, 0, False, profile != 0, struct.pack(">IHxx", BLOCK, 1)),  # random readable
            _Feature(0x1E, 2, False, profile == PROFILE_CD_ROM, bytes(4)),  # CD read
            _Feature(0x1F, 0, False, profile == PROFILE_DVD_ROM, bytes(4)),  # DVD read
        ]

    # ---- tray and events ---------------------------------------------------------------------------

    def _start_stop(self, packet: bytes) -> bytes:
        load_eject, start = packet[4] & 0x02, packet[4] & 0x01
        if packet[4] & 0xF0 or not load_eject:  # power conditions; the motor
            return b""
        if start:
            if self.tray_open:
                self.tray_open = False
                self._medium_changed()
        elif self.locked:
            raise CheckConditionError(ILLEGAL_REQUEST, REMOVAL_PREVENTED)
        elif not self.tray_open:
            self.tray_open = True
            self._medium_changed()
        return b""

    def _prevent_allow(self, packet: bytes) -> bytes:
        self.locked = bool(packet[4] & 0x01)
        return b""

    def _get_event_status(self, packet: bytes) -> bytes:
        if not packet[1] & 0x01:  # only the polled form
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        if not packet[4] & MEDIA_EVENTS:
            answer = struct.pack(">HBB", 2, 0x80, MEDIA_EVENTS)  # no event available
        else:
            status = self.tray_open | (self._medium is not None) << 1
            answer = struct.pack(">HBBBBxx", 6, MEDIA_CLASS, MEDIA_EVENTS, self._event, status)
            self._event = NO_CHANGE
        return answer[: _word(packet, 7)]

    def _mechanism_status(self, packet: bytes) -> bytes:
        return struct.pack(">BB3xBxx", 0, 0x10 if self.tray_open else 0, 1)[: _word(packet, 8)]

    # ---- the disc ----------------------------------------------------------------------------------

    def _read_capacity(self, _packet: bytes) -> bytes:
        return struct.pack(">II", max(self.blocks, 1) - 1, BLOCK)

    def _read_10(self, packet: bytes) -> Answer:
        return self._read(_long(packet, 2), _word(packet, 7))

    def _read_12(self, packet: bytes) -> Answer:
        return self._read(_long(packet, 2), _long(packet, 6))

    def _read(self, lba: int, count: int) -> Answer:
        if lba + count > self.blocks:
            raise CheckConditionError(ILLEGAL_REQUEST, LBA_OUT_OF_RANGE)
        return Blocks(lba, count) if count else b""

    def _seek(self, packet: bytes) -> bytes:
        if _long(packet, 2) >= self.blocks:
            raise CheckConditionError(ILLEGAL_REQUEST, LBA_OUT_OF_RANGE)
        return b""

    def _read_toc(self, packet: bytes) -> bytes:
        """One data track and the lead-out; one session."""
        msf, start = bool(packet[1] & 0x02), packet[6]
        form = packet[2] & 0x0F or packet[9] >> 6  # its place in SFF-8020i
        tracks = [(1, 0), (LEAD_OUT, self.blocks)]
        if form == 1:
            tracks = tracks[:1]
        elif form != 0 or (start > 1 and start != LEAD_OUT):
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        else:
            tracks = [track for track in tracks if track[0] >= start]
        entries = b"".join(
            struct.pack(">xBBx4s", TRACK, number, _position(block, msf)) for number, block in tracks
        )
        return (struct.pack(">HBB", 2 + len(entries), 1, 1) + entries)[: _word(packet, 7)]

    def _read_disc_information(self, packet: bytes) -> bytes:
        if packet[1] & 0x07:
            raise CheckConditionError(ILLEGAL_REQUEST, INVALID_FIELD)
        # a finished disc with one complete session of one track, for any use
        return struct.pack(">HBBBBBB26x", 32, 0x0E, 1, 1, 1, 1, 0x20)[: _word(packet, 7)]


def _nothing(_packet: bytes) -> bytes:
    return b""


def _word(packet: bytes, at: int) -> int:
    return packet[at] << 8 | packet[at + 1]


def _long(packet: bytes, at: int) -> int:
    return _word(packet, at) << 16 | _word(packet, at + 2)


def _position(block: int, msf: bool) -> bytes:
    """A place on the disc: a block number, or minute, second and frame (MMC-5, 4.2.2)."""
    if not msf:
        return block.to_bytes(4, "big")
    seconds, frame = divmod(block + LEAD_IN_BLOCKS, FRAMES)
    minute, second = divmod(seconds, SECONDS)
    return bytes((0, min(minute, 255), second, frame))
