"""What every file of the repository keeps to: docstrings, words, and documents that name what exists."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".md", ".toml", ".c", ".h", ".S", ".s", ".ld", ".txt", ".yml", ".yaml", ".cfg", ""}
ABSOLUTE = re.compile(r"(?<![\w.:/~$})>*\\-])/(?:home|root|work|mnt|srv|Users)/[\w.-]+")
REGISTRIES = re.compile(
    "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", r"registry\." + "npmjs", "crates" + r"\.io"))
)
TICKETS = re.compile(r"\b(?:[Ii]ssue|[Tt]icket|[Ff]ixes|[Cc]loses|PR) #?\d+")

SUPPRESSED = re.compile(
    r"#\s*(?:noqa(?::\s*(?P<noqa>[A-Z0-9]+(?:,\s*[A-Z0-9]+)*))?|type:\s*ignore(?:\[(?P<ignore>[^\]]*)\])?)"
    r"(?P<reason>[^\n]*)"
)


def listed(pattern: str = "") -> list[Path]:
    """The files of the repository, committed or about to be."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *([pattern] if pattern else [])]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    return [path for name in names.splitlines() if (path := ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in listed()
        if path.suffix in TEXT and path != Path(__file__).resolve()
    ]


def hits(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for name, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            for match in pattern.finditer(line):
                found.append(f"{name}:{number}: {match.group()}")
    return found


def test_no_file_names_a_place_on_one_machine() -> None:
    assert hits(ABSOLUTE) == []


def test_no_file_names_a_package_registry() -> None:
    assert hits(REGISTRIES) == []


def test_no_file_speaks_of_ticket_numbers() -> None:
    code = [hit for hit in hits(TICKETS) if hit.split(":")[0].endswith((".py", ".md"))]
    assert code == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in [*listed("emu/*.py"), *listed("guest-images/*.py"), *listed("tests/style/*.py")]
        if not ast.get_docstring(ast.parse(path.read_bytes(), str(path)))
    ]
    assert silent == []


def test_every_suppressed_check_has_its_reason() -> None:
    """One reason a file and check is enough: `# noqa: X100 - reason`, `# type: ignore[x]  # reason`."""
    silent, explained = set(), set()
    for path in listed("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for found in SUPPRESSED.finditer(path.read_text(encoding="utf-8")):
            kinds = {(name, kind) for kind in re.split(r",\s*", found["noqa"] or found["ignore"] or "all")}
            (explained if found["reason"].strip(" -#") else silent).update(kinds)
    assert silent - explained == set()


def test_architecture_names_files_that_exist() -> None:
    page = ROOT / "ARCHITECTURE.md"
    if not page.is_file():
        pytest.skip("ARCHITECTURE.md is missing")
    named = re.findall(r"`((?:emu|tests|guest-images)/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert named, "ARCHITECTURE.md names no files"
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_changelog_keeps_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    dated = re.compile(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert [line for line in versions[1:] if not dated.fullmatch(line)] == []
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_stands_in_one_place() -> None:
    found = [name for name, text in texts() if re.search(r'^__version__ = "', text, re.MULTILINE)]
    assert found == ["emu/__init__.py"]
