"""Saving a chip's volatile state, and checking it on the way back.

A chip keeps what a reset forgets in one slots dataclass of ints, bools, bytes and bytearrays. `pack` turns
it into plain values under a kind and a version; `unpack` trusts none of them, as if the guest had sent them.
A field that an older version did not know keeps the value of `fresh`.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, TypeVar

from emu.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    S = TypeVar("S", bound=DataclassInstance)

Saved = Mapping[str, object]
Limits = Mapping[str, int | range]


def pack(kind: str, version: int, state: "DataclassInstance") -> dict[str, object]:
    """The fields of `state` as plain values, with `kind` and `version` in front."""
    values = {name: bytes(v) if isinstance(v, bytearray) else v for name, v in asdict(state).items()}
    return {"kind": kind, "version": version, **values}


def unpack(kind: str, version: int, saved: Saved, fresh: "S", limits: Limits) -> "S":
    """A copy of `fresh` with the fields of `saved`.

    `limits` gives an int's largest value, or its range (0 to 255 where it is silent), and the longest length
    of a bytes-like field (the fresh one's length, exactly, where it is silent). Raises ConfigError.
    """
    check_kind(kind, version, saved)
    known = {field.name for field in fields(fresh)}
    if unknown := set(saved) - known - {"kind", "version"}:
        raise ConfigError(f"saved {kind}: unknown field {sorted(unknown)[0]!r}")
    values = {
        name: _checked(kind, name, saved[name], getattr(fresh, name), limits)
        for name in known
        if name in saved
    }
    return replace(fresh, **values)


def check_kind(kind: str, version: int, saved: Saved) -> None:
    """Raise ConfigError unless `saved` is of this kind and not newer than `version`."""
    if saved.get("kind") != kind:
        raise ConfigError(f"saved state is of kind {saved.get('kind')!r}, wanted {kind!r}")
    found = saved.get("version")
    if type(found) is not int or not 1 <= found <= version:
        raise ConfigError(f"saved {kind}: version {found!r}, this program reads 1 to {version}")


def part(kind: str, saved: Saved, name: str) -> Saved:
    """The nested state `name`. Raises ConfigError where it is missing or no mapping."""
    inner = saved.get(name)
    if not isinstance(inner, Mapping):
        raise ConfigError(f"saved {kind}: {name} is missing")
    return inner


def _checked(kind: str, name: str, value: object, fresh: object, limits: Limits) -> object:
    """`value`, once it has the type of `fresh` and fits its limit."""
    if isinstance(fresh, bytes | bytearray):
        if not isinstance(value, bytes | bytearray):
            raise ConfigError(f"saved {kind}: {name} is no byte string")
        limit = limits.get(name)
        if len(value) > limit if isinstance(limit, int) else len(value) != len(fresh):
            raise ConfigError(f"saved {kind}: {name} has {len(value)} bytes")
        return type(fresh)(value)
    if type(value) is not type(fresh):
        raise ConfigError(f"saved {kind}: {name} is {value!r}, wanted {type(fresh).__name__}")
    if isinstance(value, int):
        limit = limits.get(name, 0xFF)
        allowed = limit if isinstance(limit, range) else range(limit + 1)
        if value not in allowed:
            raise ConfigError(f"saved {kind}: {name} is {value}, wanted {allowed[0]} to {allowed[-1]}")
    return value
