import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boot.pvh import load_pvh
from emu.boot.recognise import recognise
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_elf, pvh_note

MIB = 1 << 20
MEMORY = GuestMemory(2 * MIB)
LOADS = [Load(MIB, b"code", 64), Load(0x8000, b"data")]
GOOD = {bits: build_elf(LOADS, bits=bits, notes=pvh_note(MIB)) for bits in (32, 64)}

values = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))


@settings(max_examples=250, deadline=None)
@given(
    bits=st.sampled_from([32, 64]),
    changes=st.lists(st.tuples(st.integers(0, 400), values), max_size=12),
    length=st.one_of(st.none(), st.integers(0, 400)),
)
def test_a_damaged_elf_file_is_loaded_or_refused_in_one_line(
    bits: int, changes: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray(GOOD[bits])
    for at, value in changes:
        data[at % len(data)] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[:length])
        file.flush()
        for use in (recognise, lambda path: load_pvh(MEMORY, path)):
            refusal = ""
            try:
                use(Path(file.name))
            except ConfigError as error:
                refusal = str(error)
            assert "\n" not in refusal
            assert not refusal or refusal.startswith(file.name) or "find no room" in refusal


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic_are_survived(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\x7fELF" + data)
        file.flush()
        with contextlib.suppress(ConfigError):
            recognise(file.name)
