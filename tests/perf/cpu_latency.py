"""Prints what an interrupt costs: `python tests/perf/cpu_latency.py [fast|public]`. Figures only."""

import statistics
import sys
import threading
import time

from emu.testing.cpu_lab import IRETQ, CpuLab, EngineName, code, loop

ROUNDS = 200_000
VECTOR = 0x30


def per_round_us(lab: CpuLab, body: bytes, rounds: int) -> float:
    """Best of three."""
    best = float("inf")
    for _ in range(3):
        lab.start64(code("fb") + loop(rounds, body)[:-1] + code("fa f4"))
        began = time.perf_counter()
        lab.vcpu.run()
        best = min(best, time.perf_counter() - began)
    return best / rounds * 1e6


def interrupt(engine: EngineName, rounds: int) -> tuple[float, float]:
    """An OUT alone; OUT, interrupt, handler and IRET."""
    with CpuLab(engine) as lab:
        lab.on_out = lambda _port, _value: None
        plain = per_round_us(lab, code("e680"), rounds)
        lab.gate(VECTOR, IRETQ)
        waiting, request = lab.vectors.waiting, lab.engine.request_interrupt

        def on_out(_port: int, _value: int) -> None:
            waiting.append(VECTOR)
            request()

        lab.on_out = on_out
        return plain, per_round_us(lab, code("e680 eb00"), rounds)


def poke(engine: EngineName, rounds: int) -> float:
    """Microseconds from another thread's poke to the handler's first instruction; median."""
    with CpuLab(engine) as lab:
        served, times = threading.Semaphore(0), []
        lab.gate(VECTOR, code("e680 49ffc1") + IRETQ)

        def on_out(_port: int, _value: int) -> None:
            times.append(time.perf_counter_ns())
            served.release()

        lab.on_out = on_out
        delays: list[int] = []

        def work() -> None:
            for _ in range(rounds):
                began = time.perf_counter_ns()
                lab.vectors.waiting.append(VECTOR)
                lab.vcpu.poke_from_outside()
                served.acquire()
                delays.append(times[-1] - began)
            lab.vcpu.request_stop()

        thread = threading.Thread(target=work)
        thread.start()
        lab.long64(code("fb 90 ebfd"))
        thread.join()
        return statistics.median(delays) / 1e3


def main() -> None:
    """Both figures."""
    engine: EngineName = "public" if sys.argv[1:] == ["public"] else "fast"
    sys.setswitchinterval(1e-4)
    rounds = ROUNDS if engine == "fast" else ROUNDS // 40
    plain, whole = interrupt(engine, rounds)
    print(f"OUT {plain:.2f} us; OUT + interrupt + IRET {whole:.2f} us")
    print(f"poke from another thread to handler {poke(engine, 2000):.1f} us (median)")


if __name__ == "__main__":
    main()
