import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boot.multiboot import find_header, load_multiboot, parse_modules
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_elf, multiboot_header

MIB = 1 << 20
MEMORY = GuestMemory(2 * MIB)
GOOD = build_elf(
    [Load(MIB, multiboot_header(3) + b"code", 64)], bits=32, entry=MIB, sections=[(2, b"sym"), (3, b"str")]
)
addresses = st.one_of(
    st.integers(0, 0xFFFF_FFFF), st.integers(MIB - 64, MIB + 128), st.sampled_from([0, MIB, 0xFFFF_FFFF])
)


def load(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        refusal = ""
        try:
            load_multiboot(MEMORY, file.name)
        except ConfigError as error:
            refusal = str(error)
        assert "\n" not in refusal


@settings(max_examples=200, deadline=None)
@given(st.lists(addresses, min_size=5, max_size=5), st.integers(0, 64))
def test_any_addresses_are_loaded_or_refused(found: list[int], padding: int) -> None:
    load(bytes(4 * padding) + multiboot_header(0, found) + b"code" * 16)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=10))
def test_a_damaged_kernel_is_loaded_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    load(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.text(max_size=60))
def test_headers_and_module_lists_take_anything(data: bytes, text: str) -> None:
    find_header(multiboot_header() + data)
    find_header(data)
    assert all(module.path == module.text.split(" ", 1)[0] for module in parse_modules(text))
