"""Reads a TOML declaration into a frozen value; an unknown key is an error that names the nearest known one."""

import difflib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import PolyclinicError

D = TypeVar("D", bound="Declaration")


class Declaration(BaseModel):
    """Base of everything that a person declares in TOML: frozen, strict in its types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_toml(path: Path, kind: type[D], *, error: type[PolyclinicError]) -> D:
    """Read one declaration from a TOML file.

    Raises:
        error: the file is missing, is not TOML, or does not say what `kind` needs; every fault is named.
    """
    return parse(load_toml(path, error=error), kind, where=path.name, error=error)


def load_toml(path: Path, *, error: type[PolyclinicError]) -> dict[str, Any]:
    """Read a TOML file as a dictionary.

    Raises:
        error: the file is missing, unreadable or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: there is no such file. Check the path, or run the command from its folder.") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder, and a TOML file is needed. Name the file inside it.") from None
    except PermissionError:
        raise error(f"{path}: this user may not read the file. Change its permissions.") from None
    except OSError as fault:  # a name that is too long, a loop of links, a disk that fails
        raise error(f"{path}: cannot be read ({fault.strerror}). Check the path and the disk.") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 at byte {fault.start}. Save the file as UTF-8.") from None
    except tomllib.TOMLDecodeError as fault:
        raise error(f"{path}: not valid TOML: {fault}. Correct that line.") from None


def toml_value(text: str) -> Any:
    """Read one TOML value; what is none, as a bare word, is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def override_key(data: dict[str, Any], override: str, *, error: type[PolyclinicError]) -> None:
    """Set one key of a declaration by `section.key=value`.

    Raises:
        error: the override is not of that form.
    """
    place, _, value = override.partition("=")
    section, _, key = place.strip().partition(".")
    if not (section and key and value):
        raise error(f"--set {override}: not of the form section.key=value, e.g. --set federation.rounds=5.")
    if not isinstance(data.setdefault(section, {}), dict):
        raise error(f"--set {override}: [{section}] is not a section of the study.")
    data[section][key] = toml_value(value.strip())


def parse(data: Mapping[str, Any], kind: type[D], *, where: str, error: type[PolyclinicError]) -> D:
    """Turn a dictionary into a declaration.

    Raises:
        error: one message that lists every fault as `where [section] key: what is wrong`.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as fault:
        lines = [f"{where} {_place(item['loc'])}: {_sentence(item, kind)}" for item in fault.errors()]
        raise error("\n".join(dict.fromkeys(lines))) from None


def _place(location: tuple[int | str, ...]) -> str:
    """Write ('training', 'lr_head') as '[training] lr_head'."""
    words = [str(part) for part in location if not _is_alternative(part)]
    match words:
        case []:
            return "as a whole"
        case [section]:
            return f"[{section}]"
        case _:
            return f"[{words[0]}] {'.'.join(words[1:])}"


def _is_alternative(part: int | str) -> bool:
    """Tell pydantic's name for one way to read a value, such as "tuple[float, float]", from a key."""
    return isinstance(part, str) and part.startswith(("literal[", "tuple["))


def _sentence(item: Any, kind: type[Declaration]) -> str:
    location = item["loc"]
    match item["type"]:
        case "extra_forbidden":
            return _unknown_key(str(location[-1]), _model_at(kind, location[:-1]))
        case "missing":
            return "is required and missing. Add it."
        case "value_error":
            return str(item["ctx"]["error"])
        case "tuple_type":
            return f"needs a list, in square brackets; found {item['input']!r}. Correct the value."
        case "model_type" | "dict_type":
            return f"needs a section, with keys of its own; found {item['input']!r}. Correct it."
        case _:
            return f"{item['msg']}; found {item['input']!r}. Correct the value."


def _unknown_key(key: str, model: type[BaseModel]) -> str:
    known = list(_keys(model))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"there is no such key. Did you mean '{near[0]}'?"
    return f"there is no such key. Known here: {', '.join(known)}."


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _model_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow a location down to the declaration in which it lies."""
    model = kind
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            model = _declared_in(fields[str(part)].annotation) or model
    return model


def _declared_in(annotation: Any) -> type[BaseModel] | None:
    """Find the declaration inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in typing.get_args(annotation) if (found := _declared_in(part))), None)
