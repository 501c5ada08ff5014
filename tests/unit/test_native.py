"""The machine code: it is what its source says, and an engine that is another one is refused."""

import hashlib
import importlib.util

import pytest

from emu.cpu import choice, fast, library
from emu.cpu.engine import EngineHooks
from emu.cpu.native import blob, build
from emu.cpu.public.engine import PublicEngine
from emu.errors import EngineError
from emu.testing.cpu_lab import CpuLab, code


def test_the_blob_belongs_to_the_source() -> None:
    assert hashlib.sha256((build.HERE / "thunks.c").read_bytes()).hexdigest() == blob.SOURCE_SHA256


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is missing")
def test_the_source_builds_to_the_committed_bytes() -> None:
    text = build.module(*build.flatten(build.compile_object()))
    assert text == (build.HERE / "blob.py").read_text()


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is missing")
def test_an_object_that_needs_relocations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        build, "FLAGS", [flag for flag in build.FLAGS if flag != "-fPIC"] + ["-fno-pic", "-w"]
    )
    with pytest.raises(build.BuildError):
        build.flatten(build.compile_object())


def test_a_wrong_offset_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.cpu.layout.ENV_RIP", 136)
    with pytest.raises(EngineError):
        CpuLab("fast")


def test_another_release_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", 0x020105FF)
    with pytest.raises(EngineError, match=r"unicorn 2\.1\.4\.255 is installed|unicorn 2\.1\.4"):
        library.open_x86()


def test_auto_falls_back_to_the_public_engine_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object) -> None:
        raise EngineError("the engine's private fields are others")

    monkeypatch.setattr(fast.FastEngine, "_self_check", refuse)
    with CpuLab("public") as lab:
        engine = choice.make_engine("auto", lab.blocks, _hooks_of(lab), lab.vcpu.wake_fd)
        assert isinstance(engine, PublicEngine)
        engine.close()
        lines = capsys.readouterr().err.splitlines()
        assert lines == [
            "emu: the engine's private fields are others; going on with the slower public engine"
        ]
        with pytest.raises(EngineError):
            choice.make_engine("fast", lab.blocks, _hooks_of(lab), lab.vcpu.wake_fd)


def _hooks_of(lab: CpuLab) -> EngineHooks:
    return lab.hooks


def test_the_public_engine_refuses_a_context_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.cpu.public.context._SIZE", 4096)
    with pytest.raises(EngineError, match="context"):
        CpuLab("public")


def test_rip_is_exact_in_port_and_mmio_hooks() -> None:
    for engine in ("fast", "public"):
        with CpuLab(engine) as lab:
            seen: list[int] = []

            def on_load(_at: int, _width: int, lab: CpuLab = lab, seen: list[int] = seen) -> int:
                seen.append(lab.engine.mmio_rip())
                return 0

            lab.on_load = on_load
            lab.on_out = lambda _port, _value, lab=lab, seen=seen: seen.append(lab.engine.rip())
            lab.long64(code("bb000000e0 90 90 8b03 90 e680 90 8b4304 e680 f4"))
            assert seen == [0x1007, 0x100A, 0x100D, 0x1010], engine


def test_doorbells_count_and_write_their_eventfd() -> None:
    import os

    for engine in ("fast", "public"):
        with CpuLab(engine) as lab:
            fd = os.eventfd(0, os.EFD_NONBLOCK)
            bells = lab.engine.doorbells_of(0xE000_0010)
            assert bells is not None
            assert bells.add(0xE000_0010, fd)
            lab.long64(code("bb100000e0 8903 8903 8903 894304 f4 ; mov [rbx], eax three times; mov [rbx+4]"))
            assert (os.eventfd_read(fd), bells.count(0xE000_0010), lab.stores) == (
                3,
                3,
                [(0xE000_0014, 0x1000)],
            )
            assert bells.remove(0xE000_0010) == 3
            lab.long64(code("bb100000e0 8903 f4"))
            assert lab.stores[-1] == (0xE000_0010, 0x1000)
            os.close(fd)
