"""One boot with the time of its phases, as a program: `python -m emu.bench.phases KERNEL STARTED_NS`.

Prints JSON: milliseconds from STARTED_NS (CLOCK_MONOTONIC) to here, of the imports, of building the machine,
of loading the kernel up to the first guest instruction, and of the run; and the guest RAM that was touched.
"""

import sys
import time


def main(kernel: str, started_ns: int) -> None:
    """Boot `kernel` and print."""
    stamps = [started_ns, time.monotonic_ns()]
    from emu.boards.pc import build_pc  # noqa: PLC0415 - imports are what is measured
    from emu.config import DeviceConfig, MachineConfig  # noqa: PLC0415 - as above
    from emu.cpu.state import StartState  # noqa: PLC0415 - as above

    stamps.append(time.monotonic_ns())
    device = DeviceConfig("isa-debug-exit", {"iobase": "0xf4", "iosize": "0x04"})
    config = MachineConfig(kernel=kernel, no_reboot=True, devices=(device,))
    machine = build_pc(config, serial_out=lambda _data: None)
    stamps.append(time.monotonic_ns())
    load = machine.boot

    def stamped_load() -> StartState:
        state = load()
        stamps.append(time.monotonic_ns())
        return state

    machine.boot = stamped_load
    machine.run()
    stamps.append(time.monotonic_ns())

    import json  # noqa: PLC0415 - for the report only
    import os  # noqa: PLC0415 - as above

    names = ("interpreter", "import", "build", "load", "run")
    spans = {name: (b - a) / 1e6 for name, a, b in zip(names, stamps, stamps[1:], strict=False)}
    touched = os.fstat(machine.memory.fd).st_blocks // 2
    machine.close()
    print(json.dumps({"stamps": spans, "touched_kib": touched}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
