"""The expected counts, the patterned disk and the reading of the guest's result, without a machine."""

import json
import resource
from io import StringIO
from pathlib import Path

import pytest

from emu.compare.budgets import (
    RUN_BYTES,
    AtaTransfer,
    budget_of,
    budgets_of,
    transfers,
)
from emu.compare.counts import Budget, Counts, Range
from emu.compare.html import page
from emu.compare.measure import Row, Share, find_problem, read_output, row_of
from emu.compare.net_budgets import refills
from emu.compare.report import Comparison, Host, document, print_plain, print_rich, shown_count
from emu.compare.workloads import (
    OPS,
    Features,
    PatternDisk,
    PatternFrames,
    Workload,
    check,
    pattern,
    random_blocks,
    random_sequence,
    rounds,
    wish,
)
from emu.config import Outcome, OutcomeKind
from emu.errors import ConfigError

DONE = Outcome(OutcomeKind.DEBUG_EXIT, 0x10)
READ_4K = Workload("read", 4096, 1, 1000)
RESULT = (
    "iobench: result op=read bs=4096 qd=1 count=2 errors=0 checksum=0x1 bytes=8192 elapsed_ns=1000 "
    "p50_ns=400 p99_ns=500 iops=2000 interrupts=2 notifies=2 watchdog=0\n"
)


def totals(budget: Budget) -> Counts:
    assert all(allowed.exact for allowed in budget)
    return Counts(*(allowed.low for allowed in budget))


# ---- IDE ------------------------------------------------------------------------------------------


def test_one_4_kib_read_over_ide() -> None:
    assert totals(budget_of("ide-pio", Workload("read", 4096, 1, 1))) == Counts(
        exits=1 + 6 + 2048 + 1,
        light_exits=0,
        irqchip_exits=2,
        interrupts=1,
        handoffs=0,
        bytes_copied=2 * 4096,
        bytes_dma=0,
        syscalls=1,
    )


@pytest.mark.parametrize(
    ("op", "bs", "accesses"),
    [("read", 4096, 2058), ("write", 4096, 2059), ("read", 65536, 32799), ("read", 1 << 20, 524683)],
)
def test_ide_accesses_are_those_that_the_guest_documents(op: str, bs: int, accesses: int) -> None:
    budget = budget_of("ide-pio", Workload(op, bs, 1, 1))
    assert budget.exits.low + budget.irqchip_exits.low == accesses


def test_ide_has_one_request_in_flight_at_any_depth() -> None:
    assert budget_of("ide-pio", READ_4K) == budget_of("ide-pio", Workload("read", 4096, 32, 1000))


@pytest.mark.parametrize(
    ("features", "transfer"),
    [
        (Features(), AtaTransfer(commands=1, task=6, blocks=1, refills=1)),
        (Features(multiple=1), AtaTransfer(commands=1, task=6, blocks=8, refills=1)),
        (Features(lba48=True), AtaTransfer(commands=1, task=10, blocks=1, refills=1)),
    ],
)
def test_ide_transfers_of_4_kib(features: Features, transfer: AtaTransfer) -> None:
    assert AtaTransfer.of(Workload("read", 4096, 1, 1, features)) == transfer


def test_a_request_of_more_than_256_sectors_takes_48_bit_commands() -> None:
    assert AtaTransfer.of(Workload("read", 256 * 512, 1, 1)) == AtaTransfer(1, 6, 16, 2)
    assert AtaTransfer.of(Workload("read", 257 * 512, 1, 1)) == AtaTransfer(1, 10, 17, 3)
    assert AtaTransfer.of(Workload("read", 65537 * 512, 1, 1)).commands == 2


def test_a_wider_data_port_halves_the_words() -> None:
    narrow = budget_of("ide-pio", Workload("read", 4096, 1, 1)).exits.low
    wide = budget_of("ide-pio", Workload("read", 4096, 1, 1, Features(pio=32))).exits.low
    assert narrow - wide == 1024


# ---- virtio ---------------------------------------------------------------------------------------


def test_one_4_kib_read_over_virtio() -> None:
    assert totals(budget_of("virtio", Workload("read", 4096, 1, 1))) == Counts(1, 0, 1, 1, 0, 4096, 0, 1)


@pytest.mark.parametrize(("qd", "count", "batches"), [(32, 5000, 157), (32, 32, 1), (32, 33, 2), (256, 1, 1)])
def test_an_inline_queue_is_rung_once_for_each_full_ring(qd: int, count: int, batches: int) -> None:
    budget = budget_of("virtio", Workload("write", 512, qd, count))
    assert totals(budget)[:4] == (batches, 0, batches, batches)
    assert budget.syscalls == (batches, batches)  # a batch lies together on the disk


def counted_transfers(work: Workload, batch: int) -> int:
    """The same as `transfers`, request by request."""
    blocks = random_sequence(work.count, work.blocks)
    if work.op != "randread":
        blocks = (i % work.blocks for i in range(work.count))
    found = end = size = 0
    for i, block in enumerate(blocks):
        if not i or i % batch == 0 or block * work.bs != end or size + work.bs > RUN_BYTES:
            found, size = found + 1, 0
        end, size = (block + 1) * work.bs, size + work.bs
    return found


@pytest.mark.parametrize("op", ["read", "write", "randread"])
@pytest.mark.parametrize("bs", [512, 4096, 65536, 393216, 1 << 20, 3 << 20])
@pytest.mark.parametrize("count", [1, 31, 32, 100, 1000])
@pytest.mark.parametrize("batch", [1, 2, 7, 32, 256, 1000])
def test_transfers_are_runs_of_neighbours_within_a_batch(op: str, bs: int, count: int, batch: int) -> None:
    work = Workload(op, bs, 1, count)
    assert transfers(work, batch) == counted_transfers(work, batch)


def test_neighbours_share_a_system_call() -> None:
    assert budget_of("virtio", Workload("read", 4096, 32, 1000)).syscalls == (32, 32)
    assert budget_of("virtio", Workload("read", 65536, 32, 1000)).syscalls == (63, 63)  # 1 MiB at most
    assert budget_of("virtio", READ_4K).syscalls == (1000, 1000)
    for path in ("virtio-iothread", "vhost"):
        assert budget_of(path, Workload("read", 4096, 32, 1000)).syscalls.low == 32 + 2
        assert budget_of(path, READ_4K).syscalls.low == 1000 + 2


@pytest.mark.parametrize(("in_flight", "completions"), [(1, 1), (7, 1), (8, 7), (32, 25), (256, 193)])
def test_the_guest_waits_for_three_quarters_of_a_deep_queue(in_flight: int, completions: int) -> None:
    assert wish(in_flight, event_idx=True) == completions
    assert wish(in_flight, event_idx=False) == 1


def test_rounds_of_a_deep_queue() -> None:
    # 32 at first, 8 rounds of 25 submit the other 200; the end: 25, then 7 one by one
    assert rounds(Workload("read", 4096, 32, 232)) == (8, 8)


@pytest.mark.parametrize("path", ["virtio-iothread", "vhost"])
def test_a_threaded_queue_has_no_exit_and_at_most_one_doorbell_a_request(path: str) -> None:
    budget = budget_of(path, READ_4K)
    assert budget.exits == (0, 0)
    assert budget.light_exits == (1, 1000)
    assert budget.interrupts == budget.irqchip_exits == (1000, 1001)  # one may be left from the warm-up
    assert budget.bytes_copied == (4096_000, 4096_000)


def test_the_event_index_keeps_doorbells_rare_at_depth_32() -> None:
    work = Workload("read", 4096, 32, 5000)
    assert budget_of("vhost", work).light_exits.high / work.count < 0.1


@pytest.mark.parametrize(("op", "path"), [(op, path) for op in OPS for path in budgets_of(op)])
@pytest.mark.parametrize("qd", [1, 8, 256])
@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("event_idx", [True, False])
def test_every_range_is_one(op: str, path: str, qd: int, count: int, event_idx: bool) -> None:
    budget = budget_of(path, Workload(op, 512, qd, count, Features(event_idx=event_idx)))
    assert all(0 <= allowed.low <= allowed.high for allowed in budget)


# ---- frames ---------------------------------------------------------------------------------------


def test_one_echo_over_the_82540em() -> None:
    assert totals(budget_of("e1000", Workload("net-rr", 4096, 1, 1))) == Counts(
        exits=2,  # TDT, ICR
        light_exits=0,
        irqchip_exits=2,
        interrupts=1,
        handoffs=0,
        bytes_copied=3 * (16 + 4096),
        bytes_dma=0,
        syscalls=0,
    )


def test_one_echo_over_virtio() -> None:
    found = totals(budget_of("virtio", Workload("net-rr", 64, 1, 1)))
    assert found == Counts(1, 0, 1, 1, 0, 3 * (16 + 64), 0, 0)


def test_a_stream_is_one_exit_a_batch_and_is_interrupted_once() -> None:
    work = Workload("net-stream", 1024, 32, 1000)
    copied = 1000 * 1040 + 3 * 80  # the report goes there and back
    assert totals(budget_of("virtio", work)) == Counts(32 + 1, 0, 1, 1, 0, copied, 0, 0)
    assert totals(budget_of("e1000", work)) == Counts(32 + 1 + 1, 0, 2, 1, 0, copied, 0, 0)


@pytest.mark.parametrize(
    ("qd", "count", "times"), [(1, 128, 0), (1, 129, 1), (8, 129, 1), (200, 600, 2), (256, 600, 2)]
)
def test_the_guest_gives_receive_buffers_back_many_at_a_time(qd: int, count: int, times: int) -> None:
    """128 of them, fewer where so many are in flight; after the last batch none."""
    assert refills(Workload("net-rr", 64, qd, count)) == times


def test_a_deep_ring_of_the_82540em_has_bounds() -> None:
    assert not budget_of("e1000", Workload("net-rr", 64, 65, 1000)).exits.exact
    assert budget_of("e1000", Workload("net-rr", 64, 64, 1000)).exits.exact
    assert budget_of("e1000", Workload("net-stream", 64, 256, 1000)).exits.exact


def test_a_card_has_two_rings_that_may_stand_still() -> None:
    disk, card = (Workload(op, 512, 1, 100) for op in ("read", "net-rr"))
    for work, rings in ((disk, 1), (card, 2)):
        short, longer = (budget_of("vhost-user", work, 0, looks * 4_000_000) for looks in (0, 10))
        assert longer.interrupts.high - short.interrupts.high == 10 * rings


def test_a_frame_that_another_thread_answers_takes_nine_system_calls_at_most() -> None:
    """A doorbell's write, wait and read, two turns, a look between them, the guest's wake-up, and one."""
    work = Workload("net-rr", 64, 1, 100_000)
    assert budget_of("vhost", work).syscalls.high / work.count == pytest.approx(9, abs=0.1)


def test_a_polling_back_end_is_rung_for_at_most_every_tenth_time() -> None:
    for op in OPS:
        assert budget_of("vhost-user-poll", Workload(op, 512, 8, 1000)).light_exits == (0, 100)


def test_a_polling_back_end_may_interrupt_for_each_request_and_once_more() -> None:
    for op in OPS:
        work = Workload(op, 512, 8, 1000)
        kicked, polled = (budgets_of(op)[path](work.on(path)) for path in ("vhost-user", "vhost-user-poll"))
        assert polled.interrupts == Range(kicked.interrupts.low, max(kicked.interrupts.high, 1001))


def test_several_guests_budgets_add_up() -> None:
    one = budget_of("vhost", Workload("net-rr", 64, 8, 100))
    assert one.plus(one).interrupts == Range(2 * one.interrupts.low, 2 * one.interrupts.high)


def test_frames_carry_the_data_of_a_disk() -> None:
    work = Workload("net-rr", 512, 1, 300)
    assert PatternFrames(work).checksum() == sum(pattern(300 * 64, 0)) % (1 << 64)
    large = Workload("net-stream", 8192, 1, 2048 + 5)  # round 16 MiB, and on
    words = pattern(2048 * 1024, 0)
    assert PatternFrames(large).checksum() == (sum(words) + sum(words[: 5 * 1024])) % (1 << 64)


def test_the_watchdog_of_a_long_run_is_allowed_for() -> None:
    budget, longer = (budget_of("virtio", READ_4K, watchdog) for watchdog in (0, 3))
    assert longer.interrupts == Range(budget.interrupts.low + 3, budget.interrupts.high + 3)
    assert longer.exits == budget.exits


def test_a_miss_is_named() -> None:
    budget = budget_of("virtio", Workload("read", 4096, 1, 10))
    counts = totals(budget)
    assert budget.misses(counts) == []
    assert budget.misses(counts._replace(exits=11, syscalls=9)) == ["exits", "syscalls"]


# ---- the work -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (Workload("erase", 4096, 1, 1), "read, write, randread, net-rr, net-stream"),
        (Workload("net-rr", 100, 1, 1), "multiple of 64 bytes, as frames are made here; try 128"),
        (Workload("net-stream", 16384, 1, 1), "8192 bytes at most"),
        (Workload("read", 1000, 1, 1), "multiple of 512 bytes, a sector; try 1024"),
        (Workload("read", 4096, 257, 1), "1 to 256 are possible"),
        (Workload("read", 4096, 1, 0), "count 0"),
        (Workload("read", 1 << 20, 97, 1), "qd may be 96"),
        (Workload("read", 1 << 30, 1, 1), "96 MiB of guest memory"),
    ],
)
def test_impossible_work_is_refused_in_one_line(work: Workload, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        check(work)
    assert "\n" not in str(caught.value)


def test_the_pattern_is_that_of_the_guest() -> None:
    assert list(pattern(2, 0)) == [
        0x9E3779B97F4A7C15 ^ 0xE5C0DE5EEDF00D11,
        0x3C6EF372FE94F82A ^ 0xE5C0DE5EEDF00D11,
    ]
    step = 0xD1B54A32D192ED03
    assert [new ^ old for new, old in zip(pattern(3, 2), pattern(3, 0), strict=True)] == [
        2 * step & (1 << 64) - 1
    ] * 3


def test_random_blocks_stay_on_the_disk() -> None:
    found = random_blocks(1000, 7)
    assert found.total() == 1000
    assert set(found) == set(range(7))


def test_a_disk_that_was_not_written_right_is_found_out(tmp_path: Path) -> None:
    work = Workload("write", 512, 1, 3)
    disk = PatternDisk(str(tmp_path / "disk"), work)
    assert disk.wrong_byte() is None
    generation = disk.next_generation()
    assert disk.wrong_byte() == 0
    with (tmp_path / "disk").open("r+b") as file:
        file.write(pattern(3 * 64, generation).tobytes())
    assert disk.wrong_byte() is None
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2")
    assert disk.wrong_byte() in (5000, 5001)


def test_a_disk_that_lost_its_end_is_found_out(tmp_path: Path) -> None:
    disk = PatternDisk(str(tmp_path / "disk"), READ_4K)
    with (tmp_path / "disk").open("r+b") as file:
        file.truncate(disk.size - 512)
    assert disk.wrong_byte() == disk.size - 512


def test_no_room_for_the_disk_is_one_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(ConfigError, match="for a disk of 4000 KiB; set TMPDIR"):
            PatternDisk(str(tmp_path / "disk"), READ_4K)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("count", [3, 256, 300, 2048 + 5])
def test_the_checksum_goes_round_the_disk_as_the_guest_does(count: int, tmp_path: Path) -> None:
    work = Workload("read", 512, 1, count)
    disk = PatternDisk(str(tmp_path / "disk"), work)
    words = pattern(disk.size // 8, 0)
    each = sum(sum(words[i % work.blocks * 64 : (i % work.blocks + 1) * 64]) for i in range(count))
    assert disk.checksum() == each % (1 << 64)


# ---- the guest's word -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "outcome", "problem"),
    [
        (RESULT + "iobench: done\n", DONE, ""),
        (
            "",
            Outcome(OutcomeKind.HALTED),
            "0 results and ended by halted with interrupts off, it printed nothing",
        ),
        (RESULT * 2 + "iobench: done\n", DONE, "2 results"),
        (RESULT, DONE, "went on after its result"),
        (RESULT.replace("errors=0", "errors=-1") + "iobench: done\n", DONE, "not a result as iobench prints"),
        (RESULT.replace("qd=1", "qd=1 qd=1") + "iobench: done\n", DONE, "not a result as iobench prints"),
        (RESULT + "iobench: done\n", Outcome(OutcomeKind.DEBUG_EXIT, 0x11), "isa-debug-exit with 0x11"),
        ("iobench: fail what=timeout completed=12\n", DONE, 'ended with "fail what=timeout completed=12"'),
        ("panic: vector=14 error=0x0 rip=0x1 cr2=0x0\n", DONE, 'ended with "panic: vector=14'),
        (
            "iobench: error request=3 offset=1\n"
            + RESULT.replace("errors=0", "errors=1")
            + "iobench: done\n",
            DONE,
            "1 requests with wrong data: request=3",
        ),
    ],
)
def test_the_guests_output_is_read_strictly(text: str, outcome: Outcome, problem: str) -> None:
    found = read_output(text, outcome)[1]
    assert (found == "") == (problem == "")
    assert problem in found


def test_a_result_of_other_work_or_another_sum_is_a_problem(tmp_path: Path) -> None:
    work = Workload("read", 4096, 1, 2)
    disk = PatternDisk(str(tmp_path / "disk"), work)

    def problem(text: str) -> str:
        result = read_output(text + "iobench: done\n", DONE)[0]
        assert result is not None
        return find_problem(work, result, disk)

    assert problem(RESULT.replace("count=2", "count=1")) == "the guest did other work: op=read count=1"
    assert "checksum is 0x1" in problem(RESULT)
    assert problem(RESULT.replace("checksum=0x1", f"checksum={disk.checksum():#x}")) == ""


# ---- the report -----------------------------------------------------------------------------------


def comparison() -> Comparison:
    good, bad = budget_of("virtio", READ_4K), budget_of("ide-pio", READ_4K)
    rows = (
        Row("virtio", READ_4K, "", totals(good), good, 4000, 9000, 5_000_000),
        Row("ide-pio", READ_4K, "", totals(bad)._replace(syscalls=1001), bad, 9, 9, 1_000_000),
        Row("vhost", READ_4K, "byte 7 <is> wrong", Counts(*[0] * 8), budget_of("vhost", READ_4K), 0, 0, 0),
    )
    host = Host("A CPU", 2, "Linux 6", "3.11", "2.1.4")
    return Comparison(READ_4K, host, rows, {"virtio": "inline", "ide-pio": "words", "vhost": "a & b"})


def test_a_row_that_misses_its_budget_or_is_not_verified_is_named() -> None:
    assert comparison().complaints() == [
        "ide-pio: syscalls 1,001 in 1,000 requests; budget 1,000",
        "vhost: not verified: byte 7 <is> wrong",
    ]


def test_the_json_has_the_agreed_shape() -> None:
    made = json.loads(json.dumps(document(comparison())))
    assert made["schema"] == 1
    assert made["workload"] == {"op": "read", "bs": 4096, "qd": 1, "count": 1000, "vms": 1}
    first, _, last = made["paths"]
    assert (first["path"], first["requests"], first["verified"]) == ("virtio", 1000, True)
    assert first["per_request"] == {
        "exits": 1.0,
        "light_exits": 0.0,
        "irqchip_exits": 1.0,
        "interrupts": 1.0,
        "handoffs": 0.0,
        "bytes_copied": 4096.0,
        "bytes_dma": 0.0,
        "syscalls": 1.0,
    }
    assert first["latency_ns"] == {"p50": 4000, "p99": 9000}
    assert first["throughput"] == {"iops": 200_000.0, "bytes_per_s": 200_000.0 * 4096}
    assert (last["verified"], last["throughput"]["iops"]) == (False, 0.0)


@pytest.mark.parametrize("printer", [print_plain, print_rich])
def test_the_tables_show_counts_and_times_apart(printer: object) -> None:
    out = StringIO()
    assert callable(printer)
    printer(comparison(), out)
    shown = out.getvalue()
    assert shown.index("Counts") < shown.index("Times of this machine") < shown.index("Why")
    assert "A CPU" in shown


def several(polled_ns: int) -> Comparison:
    """Two guests over both back-ends of another process."""
    rows = []
    for path, elapsed_ns in (("vhost-user", 10_000_000), ("vhost-user-poll", polled_ns)):
        shares = (Share("", 10, 20, elapsed_ns // 2), Share("", 30, 90, elapsed_ns))
        rows.append(row_of(path, READ_4K, shares, Counts(0, 0, 2000, 2000, 2000, 2000 * 4096, 0, 4000)))
    host = Host("A CPU", 2, "Linux 6", "3.11", "2.1.4")
    return Comparison(READ_4K, host, rows, {row.path: "elsewhere" for row in rows}, 2)


def test_several_guests_are_counted_together_until_the_last_one_is_done() -> None:
    made = json.loads(json.dumps(document(several(10_000_000))))
    row = made["paths"][1]
    assert made["workload"]["vms"] == 2
    assert (row["requests"], row["misses"]) == (2000, [])
    assert row["per_request"]["syscalls"] == 2.0
    assert row["throughput"]["iops"] == 200_000
    assert row["latency_ns"] == {"p50": 30, "p99": 90}
    assert [share["iops"] for share in row["guests"]] == [200_000, 100_000]


def test_whether_polling_gains_is_said_either_way() -> None:
    assert several(5_000_000).remarks() == [
        "2 guests on one back-end: polling serves 2.00 times what kicks do."
    ]
    assert several(20_000_000).remarks() == [
        "2 guests on one back-end: polling serves 0.50 times what kicks do, which is no gain: "
        "3 threads that do not sleep share 2 cores."
    ]
    assert comparison().remarks() == []


@pytest.mark.parametrize("printer", [print_plain, print_rich])
def test_the_tables_show_each_guests_share(printer: object) -> None:
    out = StringIO()
    assert callable(printer)
    printer(several(20_000_000), out)
    assert "2 guests at once, each, 1,000 requests" in out.getvalue()
    assert "guest 1" in out.getvalue()
    assert "no gain" in out.getvalue()
    assert "guest 1" in page(several(20_000_000))


def test_the_html_page_stands_alone() -> None:
    text = page(comparison())
    assert "a &amp; b" in text
    assert "byte 7 &lt;is&gt; wrong" in text
    assert "prefers-color-scheme: dark" in text
    assert not any(word in text for word in ("http", "<script", "<link", "<img", "@import", "url("))
    assert len(text) < 16384


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2056.0, "2,056"), (0.0, "0"), (0.0314, "0.0314"), (0.35, "0.35"), (4096.5, "4,096.5")],
)
def test_counts_are_shown_as_short_as_they_are_exact(value: float, shown: str) -> None:
    assert shown_count(value) == shown
