"""StudyResult to results.json and back, exactly; a file is replaced whole or not at all."""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from server.results import SCHEMA, StudyResult
from shared.errors import StorageError
from shared.plain_text import MOST_JSON_BYTES, check_json
from shared.storage import atomic_file

_AGAIN = "Run the study again with --resume, or use the version of Polyclinic that wrote the file."


def to_json(result: StudyResult) -> str:
    """Write a result as JSON text: equal results give equal bytes, and `from_json` gives back an equal result.

    Raises:
        ValueError: a number is not finite, or a value has no place in JSON; the message names the field.
    """
    text = json.dumps(_plain(result, "result"), indent=2, ensure_ascii=False)
    # Score-bin counts and losses read better as one line than as one line a number.
    return re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def from_json(text: str, *, where: str) -> StudyResult:
    """Read a result from JSON text; `where` names it in errors.

    Raises:
        StorageError: not JSON, half-written, of another schema, or with a field missing, unknown or of a wrong type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as fault:
        raise _no_json(where, fault) from None
    return _result(data, where=where)


def _no_json(where: str, fault: json.JSONDecodeError) -> StorageError:
    return StorageError(f"{where}: not JSON at line {fault.lineno}. {_AGAIN}")


def _result(data: Any, *, where: str) -> StudyResult:
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise StorageError(f"{where}: has schema {found!r}, and this version reads schema {SCHEMA}. {_AGAIN}")
    try:
        return typing.cast(StudyResult, _value(data, StudyResult, "result"))
    except (KeyError, TypeError, ValueError) as fault:
        raise StorageError(f"{where}: {fault.args[0]}. {_AGAIN}") from None


def read(path: Path) -> StudyResult:
    """Read a results.json, which others may have written: it is checked by the parser that reads it, and read once.

    Raises:
        StorageError: the file is missing, unreadable, not a result of this version, or nothing that may be shown
            (shared/plain_text.py).
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_JSON_BYTES + 1)
        return _result(check_json(content), where=str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{path}: there are no results yet. {_how_to_get_them(path.parent)}") from None
    except UnicodeDecodeError:
        raise StorageError(f"{path}: not a results.json, but something else than text. {_AGAIN}") from None
    except json.JSONDecodeError as fault:
        raise _no_json(str(path), fault) from None
    except ValueError as fault:
        raise StorageError(f"{path}: {fault} Ask whoever sent it.") from None
    except OSError as fault:
        raise StorageError(f"{path}: cannot be read ({fault.strerror}). Correct its permissions.") from None


def _how_to_get_them(run: Path) -> str:
    """Tell a run that is not finished from a folder that is none."""
    if (run / "run.json").exists():
        return (
            "The run is not finished: `polyclinic coordinator status` says where it stands, `resume` goes on with it."
        )
    if (run / "protocol.toml").exists():
        study = run / "protocol.toml"
        return (
            f"The run is not finished: go on with it by `polyclinic simulate {study} --resume --out {run}`, and the "
            "--sites that it began with."
        )
    return "Name the folder of a run: the one with protocol.toml in it."


def write(result: StudyResult, path: Path) -> None:
    """Write results.json; a reader sees the old file or the new one, never a part.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    text = to_json(result)
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _plain(value: object, place: str) -> Any:
    """Turn a value into JSON's own types; mappings by sorted key, so that the text doesn't depend on insertion."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return float(value)
        case Mapping():
            return {key: _plain(value[key], f"{place}.{key}") for key in sorted(value)}
        case tuple():
            return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
        case _ if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return {name: _plain(getattr(value, name), f"{place}.{name}") for name in names}
    raise ValueError(f"{place} is {value!r}, which has no place in results.json")


def _value(data: Any, kind: Any, place: str) -> Any:
    """Turn JSON's types back into `kind`, which may be a dataclass, mapping, tuple, union, enumeration or number."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if data is None else _value(data, arguments[0], place)
    if origin is tuple:
        return _tuple(_of(list, data, place), arguments, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _of(dict, data, place).items()
        return {key: _value(item, arguments[1], f"{place}.{key}") for key, item in items}
    if dataclasses.is_dataclass(kind):
        return _dataclass(_of(dict, data, place), typing.cast(type, kind), place)
    if kind is types.NoneType:
        return _of(kind, data, place)
    if issubclass(kind, StrEnum):
        return kind(_of(str, data, place))
    return kind(_of((int, float) if kind is float else kind, data, place))


def _of(kind: Any, data: Any, place: str) -> Any:
    """Check that JSON holds the type that the field has; True is not a number here."""
    if isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    raise TypeError(f"{place} holds {type(data).__name__} where something else is needed")


def _tuple(data: list[Any], arguments: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    kinds = arguments[:1] * len(data) if arguments[-1] is Ellipsis else arguments
    if len(kinds) != len(data):
        raise TypeError(f"{place} holds {len(data)} items, not {len(kinds)}")
    pairs = enumerate(zip(data, kinds, strict=True))
    return tuple(_value(item, kind, f"{place}[{index}]") for index, (item, kind) in pairs)


def _dataclass(data: dict[str, Any], kind: type, place: str) -> Any:
    kinds = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if wrong := sorted(set(names) ^ set(data)):
        raise KeyError(f"{place} has a missing or unknown field: {', '.join(wrong)}")
    return kind(**{name: _value(data[name], kinds[name], f"{place}.{name}") for name in names})
