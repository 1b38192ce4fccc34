"""The price of a private study: as declared, and what another budget, number of rounds or size would change."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.cli import application
from shared.errors import StudyError
from shared.protocol import StudyProtocol
from simulations.privacy_price import HEADINGS, price_rows


def private(tiny: Any, **privacy: float) -> StudyProtocol:
    training = {"batch_size": 4096, "loss": "bce"}
    unfrozen = {"norm": "folded", "features": "unit", "unfreeze": [{"round": 1, "from": "layer4"}]}
    return tiny.protocol(
        training=training, model=unfrozen, federation={"rounds": 100}, privacy={"epsilon": 6.0} | privacy
    )


def test_the_table_shows_what_each_choice_costs(tiny: Any) -> None:
    """More patients: less noise in a step. Half the budget or twice the rounds: more, by the closed form of q = 1."""
    rows = {(row[0], row[1]): row for row in price_rows(private(tiny))}
    assert {len(row) for row in rows.values()} == {len(HEADINGS)}
    noise = {key: (float(row[4]), float(row[5])) for key, row in rows.items()}
    declared = noise["as declared", "400"]
    assert noise["as declared", "1,600"][1] == pytest.approx(declared[1] / 4, abs=1e-4)
    assert noise["double the rounds", "400"][0] == pytest.approx(declared[0] * 2**0.5, abs=0.02)
    assert noise["half epsilon", "400"][0] > 1.7 * declared[0] > 1.7 * 1.7 * noise["double epsilon", "400"][0]
    assert rows["half the rounds", "400"][3] == "50"


def test_a_study_without_privacy_has_no_price(tiny: Any) -> None:
    """There is nothing to tell, and who asks is told what to add."""
    with pytest.raises(StudyError, match="Add the section first"):
        list(price_rows(tiny.protocol()))


def test_study_check_prints_the_price_and_the_warnings(tiny: Any, tmp_path: Path) -> None:
    """Unfreezing, a large epsilon and many passes are each told with their price, before any hospital is asked."""
    study = tmp_path / "study.toml"
    study.write_text(private(tiny, epsilon=12.0).to_toml().replace("local_epochs = 1", "local_epochs = 3"))
    result = CliRunner().invoke(application(), ["study", "check", str(study)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for said in ("Price of privacy", "double the rounds", "unfreeze trains the backbone", "promises little", "100 × 3"):
        assert said in result.output
