"""The command `emu` as a user meets it: lists, help, and one line for every error."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from emu import __version__
from emu.bus.ledger import Row
from emu.cli import devices, exits, images, paths
from emu.cli.main import COMMANDS, main
from emu.errors import ConfigError, EngineError
from tests.cli_lab import command


def test_help_names_every_subcommand() -> None:
    shown = command("--help")
    assert shown.returncode == 0
    assert all(f"  {name} " in shown.stdout for name in COMMANDS)


def test_help_loads_neither_engine_nor_flags() -> None:
    code = (
        "import sys; before = set(sys.modules); from emu.cli.main import main; main(['--help']);"
        "heavy = {'unicorn', 'rich', 'argparse', 'emu.cli.flags'} & (set(sys.modules) - before);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")


def test_the_version_is_the_packages() -> None:
    assert command("--version").stdout == f"emu {__version__}\n"


def test_no_subcommand_is_a_bad_command_line() -> None:
    shown = command()
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("usage: emu")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("smoek",), 'emu: "smoek" is no subcommand; the nearest is smoke\n'),
        (
            ("serve", "vhost-user-disk"),
            'emu: serve: "vhost-user-disk" is no kind; the nearest is vhost-user-blk\n',
        ),
        (("run",), "emu: nothing to boot: give an IMAGE, -kernel FILE, -drive file=FILE or -bios FILE\n"),
        (("run", "-kernal"), "emu: -kernal: no such flag; the nearest is -kernel\n"),
        (
            ("run", "/nonexistent/x"),
            "emu: /nonexistent/x: cannot be read: No such file or directory; check the path\n",
        ),
        (("smoke", "x"), 'emu: smoke needs --expect RE, such as --expect "login:"\n'),
        (
            ("smoke", "x", "--expect", "("),
            'emu: --expect: "(" is no regular expression: missing ), unterminated subpattern at position 0\n',
        ),
        (("paths", "x"), 'emu: "x": not expected; --json FILE is the only flag\n'),
        (
            ("paths", "--json", "/nonexistent/x"),
            "emu: /nonexistent/x: No such file or directory; make its folder first\n",
        ),
        (("images", "--jsn"), "emu: --jsn: no such flag; the nearest is -json\n"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_status_2(words: tuple[str, ...], text: str) -> None:
    shown = command(*words)
    assert (shown.returncode, shown.stdout, shown.stderr) == (2, "", text)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("a: b"), 2, "emu: a: b\n"),
        (EngineError("no engine"), 1, "emu: no engine\n"),
        (
            ZeroDivisionError("a\nb"),
            1,
            "emu: internal error: ZeroDivisionError: a b (EMU_DEBUG=1 shows where)\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_no_error_ends_in_a_traceback(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_argv: list[str], _out: object) -> int:
        raise error

    monkeypatch.setattr(paths, "run", fail)
    assert main(["paths"]) == status
    assert capsys.readouterr() == ("", text)


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m emu run --help | true"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=True)
    assert ended.stderr == b""


def test_paths_as_json_and_as_text_say_the_same() -> None:
    text, document = io.StringIO(), io.StringIO()
    assert paths.run([], text) == paths.run(["--json", "-"], document) == 0
    listed = json.loads(document.getvalue())["paths"]
    assert [line.split()[0] for line in text.getvalue().splitlines()] == [path["name"] for path in listed]
    ready = {path["name"] for path in listed if path["ready"]}
    assert {"ide-pio", "virtio", "virtio-iothread", "vhost", "vhost-user", "vhost-user-poll"} <= ready
    assert not ready & {"vfio", "mdev", "sriov", "vdpa", "vduse", "container"}


def test_devices_lists_every_property_with_its_values() -> None:
    text, document = io.StringIO(), io.StringIO()
    assert devices.run([], text) == devices.run(["--json", "-"], document) == 0
    listed = {device["name"]: device for device in json.loads(document.getvalue())["devices"]}
    assert {"isa-debug-exit", "virtio-blk-pci", "iothread"} <= set(listed)
    vhost = next(prop for prop in listed["virtio-blk-pci"]["properties"] if prop["name"] == "vhost")
    assert (vhost["values"], vhost["in_qemu"]) == ("on|off", False)
    assert "vhost=on|off" in text.getvalue()


def test_images_are_checked_against_their_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built/good.elf").write_bytes(b"abc")
    (tmp_path / "built/changed.elf").write_bytes(b"abd")
    (tmp_path / "built/new.elf").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  built/good.elf\n{digest}  built/changed.elf\n")
    monkeypatch.setattr(images, "folders", lambda: [tmp_path])
    states = {image.name: image.state for image in images.all_images()}
    assert states == {"good": "ready", "changed": "differs", "new": "unlisted"}
    assert images.resolve("good") == str(tmp_path / "built/good.elf")
    assert images.resolve("missing") == "missing"


def test_images_without_any_say_how_to_build_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "folders", lambda: [tmp_path])
    out = io.StringIO()
    assert images.run([], out) == 0
    assert out.getvalue() == "no guest images are here; make images builds them\n"


ROWS = [Row("device", "com1", "THR", "write", 12345), Row("irqchip", "pic0", "OCW2", "write", 7)]


def test_the_exit_table_is_aligned_and_adds_up() -> None:
    assert exits.table(ROWS).splitlines() == [
        "accesses  kind     device  register  direction",
        "  12,345  device   com1    THR       write",
        "       7  irqchip  pic0    OCW2      write",
        "  12,352  in all",
    ]


def test_the_exit_document_has_the_same_counts(tmp_path: Path) -> None:
    exits.write_json(str(tmp_path / "exits.json"), exits.document(ROWS), io.StringIO())
    document = json.loads((tmp_path / "exits.json").read_text())
    assert document["exits"] == 12352
    assert document["rows"][1] == {
        "kind": "irqchip",
        "device": "pic0",
        "register": "OCW2",
        "direction": "write",
        "accesses": 7,
    }
