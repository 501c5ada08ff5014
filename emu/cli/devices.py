"""`emu devices`: what -device and -object take."""

from typing import TextIO

from emu.cli.catalog import DRIVERS, OBJECTS, Driver
from emu.cli.exits import write_json
from emu.cli.images import json_target


def run(argv: list[str], out: TextIO) -> int:
    """Print each name with its properties, or the same facts as JSON."""
    target = json_target(argv)
    if target is not None:
        listed = [_facts("-device", driver) for driver in DRIVERS]
        listed += [_facts("-object", driver) for driver in OBJECTS]
        write_json(target, {"schema": 1, "devices": listed}, out)
        return 0
    for flag, drivers in (("-device", DRIVERS), ("-object", OBJECTS)):
        for driver in drivers:
            print(f"{flag} {driver.name}: {driver.help}", file=out)
            for prop in driver.properties:
                need = " (needed)" if prop.name in driver.required else ""
                ours = " (not in QEMU)" if prop.ours else ""
                print(f"    {prop.name + '=' + prop.kind.shown:<28} {prop.help}{need}{ours}", file=out)
    return 0


def _facts(flag: str, driver: Driver) -> dict[str, object]:
    properties = [
        {
            "name": prop.name,
            "values": prop.kind.shown,
            "help": prop.help,
            "needed": prop.name in driver.required,
            "in_qemu": not prop.ours,
        }
        for prop in driver.properties
    ]
    return {"flag": flag, "name": driver.name, "help": driver.help, "properties": properties}
