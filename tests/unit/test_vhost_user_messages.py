"""vhost-user messages: what goes over the wire, and what is refused by message and field."""

import struct

import pytest

from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FLAG_NEED_REPLY,
    MAX_PAYLOAD,
    BackendRequest,
    Config,
    Header,
    Inflight,
    Iotlb,
    Log,
    ProtocolError,
    Region,
    Request,
    VringAddr,
    VringArea,
    VringFd,
    VringState,
    decode_regions,
    decode_u64,
    encode,
    encode_regions,
    encode_u64,
    expect_empty,
)

REGION = Region(0, 0x10_0000, 0x7F00_0000_0000, 0)


def test_a_message_is_request_flags_size_and_payload() -> None:
    assert encode(Request.SET_VRING_NUM, VringState(1, 128).encode(), FLAG_NEED_REPLY) == bytes.fromhex(
        "08000000 09000000 08000000 01000000 80000000".replace(" ", "")
    )


def test_the_numbers_of_requests_are_those_of_the_specification() -> None:
    assert [Request(n).name for n in (1, 5, 11, 21, 31, 40)] == [
        "GET_FEATURES",
        "SET_MEM_TABLE",
        "GET_VRING_BASE",
        "SET_BACKEND_REQ_FD",
        "GET_INFLIGHT_FD",
        "GET_STATUS",
    ]
    assert [request.value for request in Request] == list(range(1, 41))
    assert F_PROTOCOL_FEATURES == 1 << 30


@pytest.mark.parametrize(
    ("flags", "size", "fault"),
    [
        (0, 0, "GET_FEATURES: flags: 0x0 is not version 1"),
        (2, 0, "GET_FEATURES: flags: 0x2 is not version 1"),
        (0x11, 0, "GET_FEATURES: flags: 0x11 has unknown bits"),
        (1, MAX_PAYLOAD + 1, "GET_FEATURES: size: 4097 bytes, at most 4096 are possible"),
    ],
)
def test_a_header_that_cannot_be_is_refused(flags: int, size: int, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        Header.decode(struct.pack("<III", 1, flags, size))


def test_an_unknown_request_is_named_by_its_number() -> None:
    with pytest.raises(ProtocolError, match="vhost-user request 77: flags"):
        Header.decode(struct.pack("<III", 77, 0, 0))
    with pytest.raises(ProtocolError, match="vhost-user VRING_CALL: flags"):
        Header.decode(struct.pack("<III", 4, 0, 0), BackendRequest)


@pytest.mark.parametrize(
    "value",
    [
        VringState(3, 0xFFFF_FFFF),
        VringFd(255, has_fd=False),
        VringFd(0, has_fd=True),
        VringAddr(1, 1, 2**64 - 1, 5, 6, 7),
        Log(0x1000, 0x2000),
        Iotlb(1, 2, 3, 3, 2),
        Config(4, 1, b"\x01\x02"),
        VringArea(7, has_fd=True, size=4096, offset=0),
        Inflight(4096, 0, 2, 128),
        REGION,
    ],
)
def test_what_is_encoded_is_decoded_again(
    value: VringState | VringFd | VringAddr | Log | Iotlb | Config | VringArea | Inflight | Region,
) -> None:
    assert type(value).decode(value.encode(), "X") == value


def test_lengths_are_exact() -> None:
    for kind in (VringState, VringFd, VringAddr, Log, Iotlb, VringArea, Inflight, Region):
        with pytest.raises(ProtocolError, match="vhost-user SOME: size: 3 bytes of payload"):
            kind.decode(b"abc", "SOME")
    with pytest.raises(ProtocolError, match="SET_OWNER: size: 1 bytes of payload, 0 are needed"):
        expect_empty(b"x", "SET_OWNER")
    with pytest.raises(ProtocolError, match="SET_FEATURES: size: 4 bytes of payload, 8 are needed"):
        decode_u64(bytes(4), "SET_FEATURES")


@pytest.mark.parametrize(
    ("decode", "body", "fault"),
    [
        (VringFd.decode, encode_u64(0x200), "u64: 0x200 has bits beside index and no-fd flag"),
        (VringAddr.decode, VringAddr(0, 2, 0, 0, 0, 0).encode(), "flags: 0x2 has unknown bits"),
        (Log.decode, Log(0, 0).encode(), "log size: 0x0 bytes at 0x0"),
        (Log.decode, Log(2**63, 2**63).encode(), "log size"),
        (Iotlb.decode, Iotlb(0, 0, 0, 4, 1).encode(), "type: 1 with permissions 4"),
        (Config.decode, bytes(11), "size: 11 bytes of payload, 12 are needed"),
        (Config.decode, struct.pack("<III", 0, 9, 0) + b"12", "config size: 9 bytes, 2 came"),
        (Config.decode, struct.pack("<III", 255, 2, 0) + b"12", "config offset: 2 bytes at 255, limit 256"),
        (Config.decode, struct.pack("<III", 0, 2, 5) + b"12", "config flags: 0x5 is unknown"),
        (Inflight.decode, Inflight(2**63, 0, 1, 1).encode(), "mmap size"),
        (Region.decode, Region(0, 0, 0, 0).encode(), "region size: 0 bytes"),
        (Region.decode, Region(2**64 - 1, 2, 0, 0).encode(), "region guest_addr: .* is beyond its end"),
        (Region.decode, Region(0, 2, 2**64 - 1, 0).encode(), "region user_addr: .* is beyond its end"),
        (Region.decode, Region(0, 2, 0, 2**63 - 1).encode(), "region mmap_offset: .* is beyond its end"),
    ],
)
def test_a_payload_that_cannot_be_is_refused_by_field(decode, body: bytes, fault: str) -> None:  # type: ignore[no-untyped-def]  # several decoders
    with pytest.raises(ProtocolError, match=f"^vhost-user SOME: {fault}"):
        decode(body, "SOME")


def test_a_memory_table_is_a_count_and_its_regions() -> None:
    regions = [REGION, Region(0x1_0000_0000, 0x1000, 0x1000, 0x10_0000)]
    body = encode_regions(regions)
    assert len(body) == 8 + 2 * 32
    assert decode_regions(body) == regions
    assert decode_regions(body.ljust(8 + 8 * 32, b"\0")) == regions


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"1234", "size: 4 bytes of payload, 8 are needed"),
        (encode_regions([]), "num regions: 0, 1 to 8 are possible"),
        (encode_regions([REGION] * 9), "num regions: 9, 1 to 8 are possible"),
        (encode_regions([REGION])[:-1], "size: 39 bytes of payload, 40 are needed"),
        (
            encode_regions([REGION, REGION._replace(user_addr=0)]),
            "region 1 guest_addr: 0x0 \\+ 0x100000 bytes overlaps the region at 0x0",
        ),
        (
            encode_regions([REGION, REGION._replace(guest_addr=1 << 32)]),
            "region 1 user_addr: 0x7f0000000000 \\+ 0x100000 bytes overlaps",
        ),
    ],
)
def test_a_memory_table_that_cannot_be_is_refused(body: bytes, fault: str) -> None:
    with pytest.raises(ProtocolError, match=f"^vhost-user SET_MEM_TABLE: {fault}"):
        decode_regions(body)


def test_an_inflight_description_comes_with_or_without_the_padding_of_c() -> None:
    whole = Inflight(4096, 0, 2, 128).encode()
    assert len(whole) == 24
    assert Inflight.decode(whole[:20], "X") == Inflight.decode(whole, "X")
