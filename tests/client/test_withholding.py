"""What a site will withhold is known beforehand, and is what its guard then withholds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.bootstrap import PreparedSite
from client.withholding import FewerGroups, NoEvidence, NotLearnt, NoTraining, foresee
from shared.protocol import StudyProtocol
from shared.split import Split


def foreseen(site: PreparedSite, protocol: StudyProtocol) -> list[Any]:
    return list(foresee(site.records, protocol, min_cell=site.config.policy.min_cell))


def test_a_finding_without_labels_is_not_called_too_few() -> None:
    """Nobody was assessed: that is no count that is too small, and min_cell has no part in it."""
    none = NoEvidence(split=Split.TEST, target="opacity", positives=0, negatives=0, needed=1)
    assert str(none) == "test, opacity: no patient has a label for it. There is no evidence."


def test_a_small_class_is_told_with_what_would_be_needed(tiny: Any, tmp_path: Path) -> None:
    """Five patients a side, two or three of them with the finding; ten train, and nobody says that they are too few."""
    protocol = tiny.protocol()
    site = tiny.hospital(protocol, tmp_path, min_cell=3)
    validation, test = foreseen(site, protocol)
    assert validation == NoEvidence(split=Split.VALIDATION, target="opacity", positives=2, negatives=3, needed=3)
    assert test.split is Split.TEST
    assert str(validation) == (
        "validation, opacity: 2 patients with it and 3 without, 3 of each needed (min_cell). Its evidence is withheld."
    )
    assert foreseen(tiny.hospital(protocol, tmp_path, min_cell=2), protocol) == []


def test_who_does_not_train_is_told(tiny: Any, tmp_path: Path) -> None:
    """By the patients that there are; under [privacy] by the public size, which is what the site is judged by."""
    protocol = tiny.protocol()
    first, *_ = foreseen(tiny.hospital(protocol, tmp_path, min_cell=11), protocol)
    assert first == NoTraining(patients=10, needed=11)
    assert str(first) == "training: 10 patients, 11 needed (min_cell). The site does not train."
    private = tiny.private_protocol(epsilon=3.0, delta=1e-5, size_rounding=25)
    told = foreseen(tiny.hospital(private, tmp_path, min_cell=11), private)
    assert [one for one in told if isinstance(one, NoTraining)] == []
    first, *_ = foreseen(tiny.hospital(private, tmp_path, min_cell=26), private)
    assert first == NoTraining(patients=25, needed=26)


def test_a_finding_that_is_not_learnt_is_told(tiny: Any, tmp_path: Path) -> None:
    """Two training patients were assessed for it; under [privacy] no label decides."""
    task = {"findings": ["opacity", "rare"]}

    def rare(patient: int) -> Sequence[float]:
        return [float(patient // 4 % 2), 1.0 if patient in (0, 2) else float("nan")]

    protocol = tiny.protocol(task=task)
    first, *others = foreseen(tiny.hospital(protocol, tmp_path, min_cell=3, labels=rare), protocol)
    assert first == NotLearnt(target="rare", patients=2, needed=3)
    assert str(first) == "training, rare: 2 patients assessed, 3 needed (min_cell). It is not learnt here."
    assert not [one for one in others if isinstance(one, NotLearnt)]
    private = tiny.private_protocol(epsilon=3.0, delta=1e-5, size_rounding=25)
    private = private.model_copy(update={"task": protocol.task})
    told = foreseen(tiny.hospital(private, tmp_path, min_cell=3, labels=rare), private)
    assert not [one for one in told if isinstance(one, NotLearnt | NoTraining)]


def test_of_classes_a_split_is_withheld_whole(tiny: Any, tmp_path: Path) -> None:
    """A class of one patient takes the others with it, except one that nobody has, which goes alone."""
    protocol = tiny.protocol(task={"classes": ["normal", "mass", "effusion"]})

    def hospital(labels: Callable[[int], Sequence[float]]) -> PreparedSite:
        """Label the nth patient of each side; there are twenty in the test."""
        return tiny.hospital(protocol, tmp_path, patients=80, min_cell=3, labels=lambda patient: labels(patient // 4))

    assert foreseen(hospital(lambda n: [(1, 0, 0), (0, 1, 0), (0, 0, 1)][n % 3]), protocol) == []
    two = [(1, 0, 0), (0, 1, 0)]
    told = foreseen(hospital(lambda n: two[n % 2] if n else (0, 0, 1)), protocol)
    of_test = [one for one in told if one.split is Split.TEST]
    assert [one.target for one in of_test] == ["normal", "mass", "effusion"]
    assert "withheld with another class" in str(of_test[0])
    assert "1 patients with it and 19 without, 3 of each needed" in str(of_test[2])
    assert {one.target for one in foreseen(hospital(lambda n: two[n % 2]), protocol)} == {"effusion"}


@pytest.mark.parametrize(("of_women", "withheld"), [(2, 2), (10, 0)])
def test_groups_that_are_too_small_are_told(tiny: Any, tmp_path: Path, of_women: int, withheld: int) -> None:
    """A group of two among a split's twenty is withheld, and with it the only other, from which it would follow."""
    protocol = tiny.protocol(evaluation={"score_bins": 16, "subgroups": ["sex"]})
    site = tiny.hospital(protocol, tmp_path, patients=80, min_cell=3)
    codes_N = np.where(site.records.patients_N // 4 < of_women, 0, 1)
    site = replace(site, records=replace(site.records, groups={"sex": codes_N}))
    lost: dict[str, Any] = {"target": "opacity", "axis": "sex", "withheld": 2, "groups": 2, "needed": 3}
    expected = [FewerGroups(split=split, **lost) for split in (Split.VALIDATION, Split.TEST)] if withheld else []
    assert foreseen(site, protocol) == expected
