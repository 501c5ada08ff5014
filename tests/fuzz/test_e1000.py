"""Any registers in any order, any descriptors, any frames: answers only, nothing outside of memory."""

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError
from emu.devices import e1000_spec as spec
from emu.devices.e1000_checksum import receive_checksums
from emu.devices.e1000_tso import Context, is_possible, segments, whole
from emu.devices.net.offload import FrameError, finish
from emu.devices.net.types import MAX_FRAME
from emu.testing.e1000_driver import MAC, PEER, RAM, RX_RING, TX_BUFFERS, TX_RING, E1000Driver

words = st.sampled_from([0, 1, 7, 8, 0x7FFF, 0xFFFF, 0xFFFF_FFFF]) | st.integers(0, 2**32 - 1)
addresses = st.sampled_from([0, 0x1000, TX_BUFFERS, RAM - 16, RAM - 1, RAM, 1 << 32, 2**64 - 1])
small = st.integers(0, 255)
commands = st.integers(0, 255).map(lambda command: command & ~spec.TXD_EOP) | st.integers(0, 255)
descriptors = st.one_of(
    st.builds(
        lambda at, length, kind, command, popts, special: (
            at,
            length | kind << 20 | command << 24 | popts << 40 | special << 48,
        ),
        addresses,
        st.sampled_from([0, 1, 13, 14, 60, 100, 4096, 0xFFFF, 0xF_FFFF]),
        st.sampled_from([0, 1, 1, 1, 9]),
        commands,
        small,
        st.integers(0, 0xFFFF),
    ),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)
hot = [
    getattr(spec, name) for name in "CTRL RCTL TCTL RDT TDT RDH TDH RDLEN TDLEN RDBAL TDBAL RXCSUM".split()
]
registers = st.sampled_from(hot) | st.integers(0, spec.BAR_SIZE // 4 - 1).map(lambda index: 4 * index)
frames = st.builds(
    lambda to, body, times: (to + body) * times,
    st.sampled_from(
        [b"", MAC, PEER, b"\xff" * 6, MAC + PEER + b"\x08\0E\0\0\x30", MAC + PEER + b"\x81\0\0\x05"]
    ),
    st.binary(max_size=64),
    st.sampled_from([1, 1, 1, 20, 200]),
)
steps = st.one_of(
    st.tuples(st.just("write"), registers, words),
    st.tuples(st.just("read"), registers, st.just(0)),
    st.tuples(st.just("narrow"), st.integers(0, spec.BAR_SIZE - 4), words),
    st.tuples(st.just("io"), st.sampled_from([0, 4, 8]), words),
    st.tuples(st.just("tx"), st.integers(0, 7), descriptors),
    st.tuples(st.just("rx"), st.integers(0, 7), descriptors),
    st.tuples(st.just("send"), st.just(0), st.lists(descriptors, min_size=1, max_size=7)),
    st.tuples(st.just("frame"), st.just(0), frames),
    st.tuples(st.just("time"), st.just(0), st.integers(0, 10**8)),
    st.tuples(st.just("plug"), st.just(0), st.booleans()),
)


@settings(max_examples=80, deadline=None)
@given(script=st.lists(steps, max_size=40), started=st.booleans())
def test_a_hostile_driver_gets_answers_only(script: list[tuple[str, int, object]], started: bool) -> None:
    driver = E1000Driver()
    driver.memory.on_written = lambda at, length: driver.memory.view(at, length).release()
    if started:
        driver.start(spec.RCTL_UPE | spec.RCTL_MPE)
    for kind, at, value in script:
        with contextlib.suppress(AccessError):
            _step(driver, kind, at, value)
        driver.run()
    driver.card.function.reset()
    assert not driver.line.level
    assert all(len(sent) <= MAX_FRAME + 4 for sent, _ in driver.cable.sent)
    for sent, offload in driver.cable.sent:
        with contextlib.suppress(FrameError):
            finish([memoryview(sent)], offload)
    driver.close()


def _step(driver: E1000Driver, kind: str, at: int, value: object) -> None:
    if kind == "write" and isinstance(value, int):
        driver.write(at, value)
    elif kind == "read":
        assert 0 <= driver.read(at) < 1 << 32
    elif kind == "narrow" and isinstance(value, int):
        assert 0 <= driver.card.read(at, 1) < 256
        driver.card.write(at, 1, value & 0xFF)
    elif kind == "io" and isinstance(value, int):
        driver.card.io.write(at, 4, value)
        assert 0 <= driver.card.io.read(at, 4) < 1 << 32
    elif kind in ("tx", "rx") and isinstance(value, tuple):
        driver.memory.view((TX_RING if kind == "tx" else RX_RING) + 16 * at, 16)[:] = struct.pack(
            "<QQ", *value
        )
    elif kind == "send" and isinstance(value, list):
        for low, high in value:
            driver.put(low, high)
        driver.ring()
    elif kind == "frame" and isinstance(value, bytes):
        driver.cable.offer(value)
    elif kind == "time" and isinstance(value, int):
        driver.clock.advance(value)
    elif kind == "plug":
        driver.cable.plug(bool(value))


contexts = st.builds(
    Context,
    ipcss=st.sampled_from([14, 18]) | small,
    ipcso=st.just(24) | small,
    ipcse=st.sampled_from([0, 33]) | st.integers(0, 0xFFFF),
    tucss=st.sampled_from([34, 54]) | small,
    tucso=st.sampled_from([50, 70, 40]) | small,
    tucse=st.just(0) | st.integers(0, 0xFFFF),
    paylen=st.integers(0, 0xF_FFFF),
    tucmd=st.integers(0, 7),
    hdrlen=st.sampled_from([54, 66, 74]) | small,
    mss=st.sampled_from([0, 1, 100, 1448]) | st.integers(0, 0xFFFF),
)


@settings(max_examples=120, deadline=None)
@given(
    context=contexts,
    data=st.binary(min_size=14, max_size=120),
    times=st.integers(1, 30),
    popts=st.integers(0, 3),
)
def test_segments_are_bounded_and_carry_the_whole_payload(
    context: Context, data: bytes, times: int, popts: int
) -> None:
    frame = data * times
    if not is_possible(context, len(frame)):
        return
    made = list(segments([memoryview(frame)], context, popts))
    assert sum(len(one) - context.hdrlen for one in made) == len(frame) - context.hdrlen
    assert all(len(one) <= context.hdrlen + context.mss for one in made)
    large = whole([memoryview(frame)], len(frame), context, popts)
    if large is not None:
        assert sum(map(len, large[0])) == len(frame)


@settings(max_examples=120, deadline=None)
@given(frame=frames, rxcsum=st.integers(0, 0x7FF))
def test_any_frame_has_its_checksum_status(frame: bytes, rxcsum: int) -> None:
    assert 0 <= receive_checksums(frame, rxcsum) < 1 << 48
