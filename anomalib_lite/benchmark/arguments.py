"""Lists on the command line whose entries are options themselves: `benchmark.options=[data.size=96,seed=1]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from anomalib_lite.console import quoted
from anomalib_lite.types import InputError

LISTS = ("benchmark.models=", "benchmark.data=", "benchmark.options=")
OPENING, CLOSING, QUOTES = "[{(", "]})", "'\""


def quote_entries(arguments: Sequence[str]) -> list[str]:
    """The same arguments with entries in quotes where Hydra's parser, to which `=` and blanks mean more, needs them.

    Raises:
        InputError: for a list that can't be read either way.

    >>> print(*quote_entries(["benchmark.models=[cpcae,vae scoring=map]"]))
    benchmark.models=[cpcae,'vae scoring=map']
    """
    return [_readable(argument) if argument.startswith(LISTS) else argument for argument in arguments]


def as_argument(key: str, value: Any) -> str:
    """`key=value` for the command line, of a text, or of lists and mappings of texts.

    >>> print(as_argument("benchmark.data", [{"name": "o'ring", "options": ["data.root=my parts"]}]))
    benchmark.data=[{name:'o\\'ring',options:['data.root=my parts']}]
    """
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_literal(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    return quoted(value)


def _readable(argument: str) -> str:
    if _parses(argument):
        return argument
    key, _, value = argument.partition("=")
    whole = f"{key}={_quote(value.strip())}"
    if not _parses(whole):
        raise InputError(
            f"{argument}: expected a list [..., ...] of names, options in quotes or {{name: ...}}"
        )
    return whole


def _quote(value: str) -> str:
    """A value with quotes around those parts of it that Hydra's parser can't read without."""
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{','.join(_quote(entry) for entry in split_entries(value[1:-1]))}]"
    if value[:1] == "{" and value[-1:] == "}":
        pairs = [entry.partition(":") for entry in split_entries(value[1:-1])]
        return f"{{{','.join(f'{key.strip()}:{_quote(part.strip())}' for key, _, part in pairs)}}}"
    # what is left open is not for us to close
    return value if value[:1] in OPENING or _parses(f"value={value}") else quoted(value)


def split_entries(text: str) -> Iterator[str]:
    """The parts between commas outside of quotes and brackets.

    >>> list(split_entries("data.crop=[1,2,3,4], 'a,b'"))
    ['data.crop=[1,2,3,4]', "'a,b'"]
    """
    depth, quote, start = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in QUOTES:
            quote = character
        elif character == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
        else:
            depth += (character in OPENING) - (character in CLOSING)
    yield text[start:].strip()


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True
