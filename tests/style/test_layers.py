"""Imports point one way. The arrows are the table below; each exception has its reason."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "emu"

BOTTOM = frozenset({"errors", "clock", "config", "listening"})
CORE = BOTTOM | {"bus"}
PLACES = frozenset({"dataplanes", "kernel", "hardware", "passthrough", "migration"})
PARTS = CORE | PLACES | {"cpu", "devices", "boot"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "config": frozenset(),
    "clock": frozenset({"errors"}),
    "listening": frozenset({"errors"}),
    "bus": BOTTOM,
    "cpu": CORE,
    "devices": CORE,
    "boot": CORE,
    **{place: CORE | {"devices"} for place in PLACES},
    "machine": PARTS,
    "boards": PARTS | {"machine"},
    "serve": CORE | {"devices", "dataplanes", "kernel"},
    "compare": PARTS | {"machine", "boards", "serve"},
    "bench": PARTS | {"machine", "boards"},
    "cli": PARTS | {"machine", "boards", "compare", "bench", "serve"},
    "testing": CORE | {"devices"},
}
"""Layer -> the layers it may import, besides itself and the package's own `__version__`."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("emu.bench.phases", "cli"): "a program of its own: it stamps the steps of the command `emu run`",
    ("emu.dataplanes.local", "kernel"): "a worker asks the kernel's role for a barrier before it sleeps",
    ("emu.dataplanes.vhost_user.frontend", "kernel"): "a machine joins the barrier of those who serve it",
    ("emu.testing.cpu_lab", "cpu"): "it is a CPU for tests of the CPU",
    ("emu.testing.guest_elf", "boot"): "it builds files for the loaders, with their constants",
}
"""(importing module, imported layer) -> why this one sideways import is right."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported_modules(path: Path) -> set[str]:
    """Every module of this package that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "emu"}


def arrows() -> set[tuple[str, str]]:
    """(module, layer it imports), without a layer's imports of itself."""
    found: set[tuple[str, str]] = set()
    for path in modules():
        module = dotted(path)
        for name in imported_modules(path):
            target = layer_of(name)
            is_layer = (PACKAGE / target).is_dir() or (PACKAGE / f"{target}.py").is_file()
            if target and is_layer and target != layer_of(module):
                found.add((module, target))
    return found


def test_every_layer_is_in_the_table() -> None:
    names = {layer_of(dotted(path)) for path in modules()} - {"", "__main__"}
    assert names <= set(MAY_IMPORT), f"no arrows for {names - set(MAY_IMPORT)}"


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports emu.{target}"
        for module, target in sorted(arrows())
        if module != "emu.__main__"
        and target not in MAY_IMPORT[layer_of(module)]
        and (module, target) not in EXCEPTIONS
    ]
    assert wrong == []


def test_every_exception_is_still_needed() -> None:
    assert set(EXCEPTIONS) <= arrows()
    assert all(EXCEPTIONS.values())


def test_the_package_imports_no_tests() -> None:
    tests = [module for module, target in arrows() if target == "testing" and layer_of(module) != "testing"]
    assert tests == []


@pytest.mark.parametrize("layer", ["bus", "devices"])
def test_chips_and_bus_are_imported_without_the_engine(layer: str) -> None:
    names = [dotted(path) for path in modules() if layer_of(dotted(path)) == layer]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "loaded = [name for name in sys.modules if name == 'unicorn' or name.startswith('emu.cpu')]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    "text", ["import emu.cpu.engine", "from emu.cpu import engine", "from emu import cpu"]
)
def test_every_spelling_of_an_import_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "chip.py").write_text(f"def late():\n    {text}\n")
    assert {layer_of(name) for name in imported_modules(tmp_path / "chip.py")} == {"cpu"}
