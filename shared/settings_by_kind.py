"""A section in which the value of one key decides which others there are: fills in their defaults, refuses others."""

from collections.abc import Mapping
from typing import Any


def with_own_settings(data: Any, **kinds_of: Mapping[str, Mapping[str, float]]) -> Any:
    """Add for each key that is named the settings that its value has; the first kind holds where it is left out.

    Raises:
        ValueError: a setting of another kind is given.
    """
    for key, kinds in kinds_of.items():
        data = _of_one(data, key, kinds)
    return data


def _of_one(data: Any, key: str, kinds: Mapping[str, Mapping[str, float]]) -> Any:
    kind = data.get(key, next(iter(kinds))) if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        return data
    foreign = {name for settings in kinds.values() for name in settings} - set(kinds[kind])
    given = {name for name, value in data.items() if value is not None}
    if wrong := sorted(foreign & given):
        raise ValueError(f"{key} '{kind}' has no {', '.join(wrong)}. Remove it, or choose another {key}.")
    return {**kinds[kind], **data}
