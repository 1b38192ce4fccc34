"""Every refusal of private training, of its ledger and of its study reads as sentences, the last a next step."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILES = (
    "shared/privacy.py",
    "shared/private_study.py",
    "shared/renyi_filter.py",
    "shared/study_plan.py",
    "client/count_noise.py",
    "client/count_release.py",
    "client/dp_engine.py",
    "client/layer_gradients.py",
    "client/ledger_file.py",
    "client/ledger_words.py",
    "client/noise.py",
    "client/per_sample.py",
    "client/privacy_account.py",
    "client/privacy_ledger.py",
    "client/private_release.py",
    "client/private_site.py",
    "client/private_trainer.py",
    "client/private_training.py",
)

NEXT_STEPS = frozenset(
    {
        *("Add", "Approve", "Ask", "Change", "Choose", "Correct", "Free", "Freeze", "Keep", "Let", "Lower", "Make"),
        *("Name", "Plan", "Put", "Raise", "Remove", "Report", "Score", "Set", "Use"),
    }
)
"""Words that a sentence with a next step begins with."""


def refusals(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each error that is raised with words; a value in them stands as ?."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts = [text for argument in node.exc.args if (text := _text(argument)) is not None]
            if texts:
                yield node.lineno, texts[-1]


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "?" for part in node.values)
    if isinstance(node, ast.BinOp):
        parts = (_text(node.left), _text(node.right))
        return None if None in parts else "".join(map(str, parts))
    return None


def without_next_step(text: str) -> bool:
    """Tell whether a refusal is not sentences, or none of those after its first says what to do."""
    following = re.findall(r"[.;:] ([A-Z][a-z]+)", text)
    return not text.endswith(".") or NEXT_STEPS.isdisjoint(following)


def all_refusals() -> list[tuple[str, str]]:
    """List every refusal that a private study can meet: where it is raised or declared, and what it says."""
    raised = [(f"{name}:{line}", text) for name in FILES for line, text in refusals((ROOT / name).read_text("utf-8"))]
    from shared.private_study import _REFUSED
    from shared.private_study import refusals as of_study

    settings = {key: value for key, value, _ in _REFUSED} | {
        "privacy.count_noise_epsilon": 1.0,
        "task.unit": "exam",
        "evaluation.subgroups": ("sex", "device"),
        "privacy.centre_rounds": 2,
        "model.features": "pooled",
        "model.unfreeze": ("layer4",),
        "federation.rounds": 2,
    }
    return raised + [(f"the study, {number}", text) for number, text in enumerate(of_study(settings), start=1)]


def test_every_refusal_is_a_sentence_with_a_next_step() -> None:
    """Whoever meets one, a data manager or who writes the study, knows what to do; all are listed here at once."""
    found = all_refusals()
    assert len(found) >= 39, "the list has become shorter: are they still looked for where they are raised?"
    assert [f"{where}: {text}" for where, text in found if without_next_step(text)] == []


@pytest.mark.parametrize(
    "planted",
    [
        'raise PrivacyError("the budget is spent.")',
        'raise PrivacyError("the budget is spent. Ask for less")',
        'raise TaskError(Refusal.PRIVACY, f"{left} is left, which is too little.")',
    ],
)
def test_a_refusal_without_one_is_caught(planted: str) -> None:
    """The check above is itself tried."""
    ((_, text),) = refusals(planted)
    assert without_next_step(text)


def test_a_refusal_with_one_passes() -> None:
    """A next step may be any sentence but the first."""
    ((_, text),) = refusals('raise PrivacyError(f"{a} is left. Ask for less, or close a study that has ended.")')
    assert not without_next_step(text)
