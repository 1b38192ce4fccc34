"""A site's images against its own of an earlier run: what moved is found, what did not is not, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from server.admission import Refused
from server.drift import SiteDrift, Why, drift, keep
from server.image_shift import Distance
from server.results import Harmonised, StudyResult
from server.results_json import write
from server.run_folder import RunFolder
from server.wording_drift import headline
from shared.cli import application
from shared.description import Description
from shared.errors import StorageError
from shared.evidence import Withheld
from shared.feature_summary import summarise as summarise_features
from shared.intensity import summarise as summarise_intensity
from shared.split import Split

SITES = ("hillcrest", "northgate", "riverside", "st_marys")


def description(seed: int, *, patients: int = 120, apart: float = 0.0, **withheld: Withheld) -> Description:
    """Describe a site's images, brighter and with other features by `apart` deviations."""
    rng = np.random.default_rng(seed)
    levels = np.exp(-0.5 * ((np.arange(64) - 30 - 4 * apart - rng.normal(0, 4, (patients, 1))) / 9) ** 2)
    whole = Description(
        features=summarise_features(rng.standard_normal((patients, 32)) + apart, split=Split.TRAIN, seed=0),
        intensity=summarise_intensity(levels / levels.sum(axis=1, keepdims=True), seed=0),
        corners=(),
        marks=(),
    )
    return replace(whole, **withheld)  # type: ignore[arg-type]


@pytest.fixture
def finished(tiny: Any, tmp_path: Path, study_result: StudyResult) -> Any:
    """Give `finished(name, descriptions, sections, harmonised)`: the folder of a finished run."""

    def write_run(
        name: str, descriptions: dict[str, Any], harmonised: Harmonised | None = None, **sections: Any
    ) -> RunFolder:
        run = RunFolder(path=tmp_path / name)
        run.path.mkdir()
        run.protocol.write_text(tiny.protocol(**sections).to_toml())
        sites = dict.fromkeys(descriptions, study_result.sites["northgate"])
        flows = dict.fromkeys(descriptions, study_result.patient_flow["northgate"])
        write(replace(study_result, sites=sites, patient_flow=flows, rounds=(), harmonised=harmonised), run.results)
        keep(descriptions, run.descriptions)
        return run

    return write_run


def by_site(now: RunFolder, then: RunFolder) -> dict[str, SiteDrift]:
    return {one.site: one for one in drift(now, then).sites}


def test_a_site_that_moved_is_found_and_the_others_are_not(finished: Any) -> None:
    """Brighter images by a deviation, at one of three sites: beyond its halves; the others' lie within."""
    then = finished("then", {site: description(place) for place, site in enumerate(SITES[:3])})
    moved = {site: description(10 + place, apart=float(site == "riverside")) for place, site in enumerate(SITES[:3])}
    found = by_site(finished("now", moved), then)
    assert {site for site, one in found.items() if one.moved} == {"riverside"}
    one = found["riverside"]
    assert isinstance(one.brightness, Distance)
    assert isinstance(one.features, Distance)
    assert one.brightness.beyond
    assert one.features.beyond
    assert (one.patients_then, one.patients_now) == (120, 120)


def test_without_a_change_alarms_are_rare(finished: Any) -> None:
    """Of forty sites that did not move, at most one in ten lies beyond its halves in brightness: these are wider."""
    names = [f"site{number}" for number in range(40)]
    then = finished("then", {name: description(place) for place, name in enumerate(names)})
    now = finished("now", {name: description(100 + place) for place, name in enumerate(names)})
    assert (
        sum(one.brightness.beyond for one in by_site(now, then).values() if isinstance(one.brightness, Distance)) <= 4
    )


@pytest.mark.parametrize(
    ("sections", "brightness"),
    [
        ({"images": {"window": "dicom"}}, Why.OTHER_IMAGES),
        ({"study": {"name": "Other", "intended_use": "x", "seed": 9}}, None),
        ({"model": {"unfreeze": [{"round": 1, "from": "layer4"}]}}, None),
    ],
)
def test_only_what_was_made_alike_is_compared(finished: Any, sections: Any, brightness: Why | None) -> None:
    """Images of another window are not compared at all; features of another seed, or that were trained, are not."""
    then = finished("then", {"northgate": description(1)}, **sections)
    found = by_site(finished("now", {"northgate": description(2)}, **sections | {"images": {}}), then)["northgate"]
    assert found.features is Why.OTHER_FEATURES or "study" in sections
    if "study" in sections:
        other = finished("other", {"northgate": description(2)})
        found = by_site(other, then)["northgate"]
        assert found.features is Why.OTHER_FEATURES
    assert found.brightness is brightness if brightness else isinstance(found.brightness, Distance)


def test_another_standard_scale_is_another_way_to_prepare(finished: Any) -> None:
    """Harmonised images of two runs are on two scales, and their distance would be that of these."""
    scales = [Harmonised(standard=(at,) * 9, sites={"northgate": None}, absent={}) for at in (0.4, 0.5)]
    runs = [
        finished(str(number), {"northgate": description(number)}, scale, images={"harmonise": "landmarks"})
        for number, scale in enumerate(scales)
    ]
    assert by_site(*runs)["northgate"].brightness is Why.OTHER_IMAGES


def test_what_was_held_back_is_not_compared(finished: Any) -> None:
    """A site that withheld, or did not answer, has no distance; one that is in one run alone is named."""
    then = finished("then", {"northgate": description(1), "st_marys": description(3)})
    now = {
        "northgate": description(2, intensity=Withheld()),
        "riverside": Refused(reason="no_reply"),
        "st_marys": Refused(reason="no_reply"),
    }
    found = drift(finished("now", now), then)
    assert found.missing == ("riverside",)
    north, marys = found.sites
    assert north.brightness is Why.WITHHELD
    assert isinstance(north.features, Distance)
    assert (marys.brightness, marys.features, marys.patients_now) == (Why.WITHHELD, Why.WITHHELD, None)


def test_the_command_adds_it_to_the_page(finished: Any, study_result: StudyResult) -> None:
    """Sites, distances and what they are consistent with; without --against the page has no such section."""
    then = finished("then", {site: description(place) for place, site in enumerate(SITES[:2])})
    now = finished("now", {SITES[0]: description(8), SITES[1]: description(9, apart=2.0)})
    for run in (then, now):
        write(study_result, run.results)
    done = CliRunner().invoke(application(), ["report", str(now.path), "--against", str(then.path)])
    assert done.exit_code == 0, done.output
    page = now.report.read_text(encoding="utf-8")
    assert "Images have moved at northgate: " in page
    assert "consistent with a new scanner or new settings" in page
    assert "120 → 120" in page
    CliRunner().invoke(application(), ["report", str(now.path)])
    assert "Against an earlier study" not in now.report.read_text(encoding="utf-8")


def test_nothing_moved_and_nothing_known_are_told_apart(finished: Any) -> None:
    """What was not shown is not what could not be compared."""
    then, now = (finished(name, {"northgate": description(place)}) for place, name in enumerate(("then", "now")))
    assert headline(drift(now, then)).startswith("At the only site compared no images were")
    other = finished("other", {"northgate": description(5)}, images={"window": "dicom"})
    said = headline(drift(other, then))
    assert said.startswith("No site")
    assert ": not comparable" in said or ": too few" in said or "took part in both" in said


def test_a_run_without_descriptions_says_what_to_do(finished: Any) -> None:
    """An older run, or a damaged file, is an error that names the file."""
    then, now = (finished(name, {"northgate": description(place)}) for place, name in enumerate(("then", "now")))
    then.descriptions.write_text("{}")
    with pytest.raises(StorageError, match=r"descriptions\.json"):
        drift(now, then)
    then.descriptions.unlink()
    with pytest.raises(StorageError, match="--resume"):
        drift(now, then)
