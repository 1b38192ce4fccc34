"""Study defaults live in shared/protocol.py alone: nowhere else does a study's key have a value of its own."""

import ast
import typing
from collections.abc import Iterator

from shared.declaration import Declaration
from shared.protocol import STRATEGY_SETTINGS, StudyProtocol

ROOMS = ("shared/", "client/", "server/")
"""In simulations a command line chooses the study, and a scanner has a `gamma` that is no study's."""

HOME = "shared/protocol.py"

NOT_THE_STUDYS = {
    "server/aggregation.py": {
        "scale": "a factor on one update, not augmentation's",
        "momentum": "0 where the strategy has none",
        "beta1": "0 where the strategy has none",
        "beta2": "0 where the strategy has none",
    },
    "server/checkpoint.py": {"optimiser": "the server's moments before round 1: none"},
    "server/results.py": {"subgroups": "what was found in them, not by what to divide"},
    "shared/evidence.py": {"subgroups": "their counts, not by what to divide"},
    "shared/messages.py": {"version": "the wire's"},
}
"""Names that mean something else in one file, each with what it means there."""


def study_keys() -> set[str]:
    """Collect the names of all keys in all sections of study.toml."""
    annotations = [field.annotation for field in StudyProtocol.model_fields.values()]
    sections = [part for one in annotations for part in (one, *typing.get_args(one)) if isinstance(part, type)]
    keys = {key for section in sections if issubclass(section, Declaration) for key in section.model_fields}
    return keys | {key for settings in STRATEGY_SETTINGS.values() for key in settings}


def second_homes(house) -> list[str]:
    """List the parameters and fields that are called like a study's key and have a default of their own."""
    keys = study_keys()
    return [
        f"{path}: {name}"
        for path in house.modules()
        if path.startswith(ROOMS) and path != HOME
        for name in _defaults(house.tree(path))
        if name in keys - set(NOT_THE_STUDYS.get(path, ()))
    ]


def _defaults(tree: ast.Module) -> Iterator[str]:
    """Yield the names of arguments and annotated class fields that have a value; None is no value."""
    for node in ast.walk(tree):
        match node:
            case ast.arguments():
                positional = [*node.posonlyargs, *node.args]
                pairs = [
                    *zip(positional[::-1], node.defaults[::-1], strict=False),
                    *zip(node.kwonlyargs, node.kw_defaults, strict=True),
                ]
                yield from (argument.arg for argument, value in pairs if _is_value(value))
            case ast.ClassDef():
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and _is_value(line.value):
                        yield ast.unparse(line.target)


def _is_value(node: ast.expr | None) -> bool:
    return node is not None and not (isinstance(node, ast.Constant) and node.value is None)


def test_study_defaults_have_one_home(house):
    """Whoever uses a study's setting is given it."""
    assert second_homes(house) == []


def test_a_second_home_is_caught(build):
    """A default of a positional, a keyword-only and a class's field are each a second home; None is none."""
    text = """
def f(a, batch_size=32, *, alpha: float = 0.5, size, other=1): ...
class C:
    dropout: float = 0.1
    norm: str | None = None
    rounds: int
"""
    house = build({"client/a.py": text, "shared/protocol.py": text, "simulations/b.py": text})
    assert second_homes(house) == ["client/a.py: dropout", "client/a.py: batch_size", "client/a.py: alpha"]
