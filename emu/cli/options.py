"""Command lines as tables: each flag is a row with its name, its value, what it does and its help.

Follows QEMU's rules (qemu(1), "Options"): one or two dashes mean the same, a value is the next word, options
inside a value are `key=value` joined by commas, and a doubled comma stands for a comma. Flags that are not
QEMU's also take their value as `--flag=VALUE`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from emu.errors import ConfigError

Draft = TypeVar("Draft")

SIZE_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
SWITCH_WORDS = {"on": True, "yes": True, "true": True, "y": True}
SWITCH_WORDS |= {"off": False, "no": False, "false": False, "n": False}


class Option(NamedTuple, Generic[Draft]):
    """One flag. `value` names its value in the help (None: takes none); `apply(draft, text)` stores it.

    `ours` marks a flag that QEMU does not have; `bare` one of ours whose value may be left out.
    Raises what `apply` raises: ConfigError.
    """

    name: str
    value: str | None
    apply: Callable[[Draft, str], None]
    help: str
    ours: bool = False
    bare: bool = False


def parse(
    argv: Iterable[str],
    table: Iterable[Option[Draft]],
    draft: Draft,
    positional: Callable[[Draft, str], None],
    later: Mapping[str, str] | None = None,
) -> Draft:
    """Apply each word of `argv` to `draft`; return it.

    `later` maps flags that are known but not built to what works instead. Raises ConfigError, whose text
    names the flag.
    """
    options = {option.name: option for option in table}
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            positional(draft, word)
            continue
        option, text = _look_up(word, options, later or {})
        if text is None and option.value is not None and not option.bare:
            text = next(words, None)
            if text is None:
                raise ConfigError(f"{word}: needs a value: {_shown(option)}")
        if text == "" and option.value is not None and option.value.startswith("FILE"):
            raise ConfigError(f'{word}: "" names no file; is a variable of the shell not set?')
        try:
            option.apply(draft, text or "")
        except ConfigError as error:
            raise ConfigError(f"{word.partition('=')[0]}: {error}") from None
    return draft


def _look_up(
    word: str, options: Mapping[str, Option[Draft]], later: Mapping[str, str]
) -> tuple[Option[Draft], str | None]:
    """The option that `word` names, and the value joined to it by '='."""
    bare = word[2:] if word.startswith("--") else word[1:]
    name, equals, text = bare.partition("=")
    option = options.get(name)
    if option is None:
        if name in later:
            raise ConfigError(f"-{name}: not supported yet; {later[name]}")
        raise ConfigError(f"{word}: no such flag; {nearest(name, options, '-')}")
    if not equals:
        return option, None
    if option.value is None:
        raise ConfigError(f"-{name}: takes no value")
    if not option.ours:
        raise ConfigError(f'{word}: write the value as the next word: "-{name} {text}"')
    return option, text


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: the known word most like `word`, or all of them when few, or none."""
    import difflib  # noqa: PLC0415 - only an error needs it

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"the nearest is {prefix}{close[0]}"
    if not names:
        return "there is none"
    if len(names) <= 12:
        return "there is " + ", ".join(prefix + name for name in names)
    return "see --help for the list"


def key_values(text: str, implied: str | None = None) -> list[tuple[str, str]]:
    """Cut `a,key=b,,c` into pairs; the first part without '=' belongs to the key `implied`.

    A later part without '=' is a switch: `readonly` means `readonly=on`, as in QEMU.
    Raises ConfigError for an empty part.
    """
    pairs: list[tuple[str, str]] = []
    for position, part in enumerate(_split(text)):
        key, equals, value = part.partition("=")
        if not key:
            raise ConfigError(f'"{text}" has an empty part between commas')
        if not equals:
            key, value = (implied, part) if position == 0 and implied is not None else (part, "on")
        pairs.append((key, value))
    return pairs


def _split(text: str) -> list[str]:
    """Cut at single commas; a doubled one stays as one comma."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def unique_keys(pairs: Iterable[tuple[str, str]], known: Iterable[str]) -> dict[str, str]:
    """The pairs as a dict, the last of equal keys wins as in QEMU. Raises ConfigError on an unknown one."""
    names = set(known)
    values: dict[str, str] = {}
    for key, value in pairs:
        if key not in names:
            raise ConfigError(f'"{key}" is not known here; {nearest(key, names)}')
        values[key] = value
    return values


def choice(what: str, text: str, known: Iterable[str]) -> str:
    """`text` where it is one of `known`. Raises ConfigError."""
    names = list(known)
    if text not in names:
        raise ConfigError(f'{what} "{text}" is not supported; {nearest(text, names)}')
    return text


def switch(what: str, text: str) -> bool:
    """QEMU's on and off. Raises ConfigError."""
    if text not in SWITCH_WORDS:
        raise ConfigError(f'{what} is on or off, not "{text}"')
    return SWITCH_WORDS[text]


def number(what: str, text: str, low: int, high: int) -> int:
    """A whole number, decimal or 0x hexadecimal, from `low` to `high`. Raises ConfigError."""
    try:
        value = int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        raise ConfigError(f'{what} is a number from {low} to {high}, not "{text}"') from None
    if not low <= value <= high:
        raise ConfigError(f"{what} is a number from {low} to {high}, not {text}")
    return value


def seconds(what: str, text: str) -> float:
    """A positive number of seconds. Raises ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ConfigError(f'{what} is a positive number of seconds, not "{text}"')
    return value


def size(what: str, text: str, default_unit: str = "b") -> int:
    """Bytes from QEMU's size notation: `128`, `1.5G`, `512k`. Raises ConfigError."""
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in SIZE_UNITS else (text, default_unit)
    try:
        value = int(digits, 16) if digits[:2].lower() == "0x" else float(digits)
        return int(value * (1 << SIZE_UNITS[unit]))
    except (ValueError, OverflowError, KeyError):
        raise ConfigError(f'{what} is a size such as 128M or 1G, not "{text}"') from None


def help_text(usage: str, table: Iterable[Option[Draft]], epilog: str = "") -> str:
    """What `--help` prints."""
    import textwrap  # noqa: PLC0415 - only the help needs it

    lines = [usage, ""]
    for option in table:
        shown = _shown(option)
        body = textwrap.wrap(option.help, 80) or [""]
        if len(shown) > 25:
            lines += [f"  {shown}", *(" " * 28 + line for line in body)]
        else:
            lines += [f"  {shown:<26}{body[0]}", *(" " * 28 + line for line in body[1:])]
    if epilog:
        lines += ["", epilog]
    return "\n".join(lines) + "\n"


def _shown(option: Option[Draft]) -> str:
    """A flag as the help spells it."""
    dashes = "--" if option.ours else "-"
    if option.value is None:
        return f"{dashes}{option.name}"
    if option.bare:
        return f"{dashes}{option.name}[={option.value}]"
    return f"{dashes}{option.name} {option.value}"
