"""One test case as a JUnit XML file, the form that CI servers read."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from emu.bus.output_file import write_output


@dataclass(frozen=True, slots=True)
class Case:
    """A finished test. `failure` is empty where it passed; `kind` is the verdict; `output` is printable."""

    suite: str
    name: str
    seconds: float
    kind: str
    failure: str
    output: str


def write(path: str, case: Case) -> None:
    """Write a suite with this one case to `path`. Raises ConfigError."""
    failures = "1" if case.failure else "0"
    time = f"{case.seconds:.3f}"
    counts = {"tests": "1", "failures": failures, "errors": "0", "skipped": "0", "time": time}
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": case.suite, **counts})
    element = ET.SubElement(suite, "testcase", {"classname": case.suite, "name": case.name, "time": time})
    if case.failure:
        ET.SubElement(element, "failure", {"type": case.kind, "message": case.failure}).text = case.failure
    ET.SubElement(element, "system-out").text = case.output
    ET.indent(root)
    write_output(path, ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
