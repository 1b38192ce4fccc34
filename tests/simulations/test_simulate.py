"""The main job from DICOM files to a report: what is in the run's folder, and what is refused before it costs time."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from server.finding_result import Why
from server.last_line import last_line
from server.results import StudyResult
from server.results_json import read
from server.run_folder import RunFolder, open_run
from shared.audit import verify
from shared.errors import DataError, FederationError, SiteError, StudyError, WeightsError
from shared.protocol import read_protocol
from simulations import simulate as main_job
from simulations.console import Console
from simulations.simulate import Simulation, prepare_sites, refuse_impossible, simulate
from simulations.synthetic_site import SyntheticSite


class Heard(Console):
    """A console that keeps what it would print."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def deterministic() -> Iterator[None]:
    """Put back what the main job switches on for the whole process, and compute on one thread."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def sites(hospitals_on_disk: Path, tmp_path: Path) -> Path:
    """Give a copy of the two hospitals that a test may spoil."""
    return Path(shutil.copytree(hospitals_on_disk, tmp_path / "sites"))


def job(
    tiny: Any,
    folder: Path,
    sites: Path | None,
    *,
    baselines: tuple[str, ...] = (),
    leave_one_out: bool = False,
    **sections: Any,
) -> Simulation:
    protocol = tiny.protocol(**sections)
    return Simulation(
        protocol=protocol,
        run=open_run(folder, protocol, resume=False),
        sites=sites,
        baselines=baselines,
        leave_one_out=leave_one_out,
        weights_file=None,
        device="cpu",
    )


class Finished:
    """A finished study of three hospitals with both baselines; `west` is too small to train."""

    def __init__(self, tiny: Any, folder: Path, hospitals: Path) -> None:
        sites = Path(shutil.copytree(hospitals, folder / "sites"))
        shutil.copytree(sites / "south", sites / "west")
        text = (sites / "west" / "site.toml").read_text()
        (sites / "west" / "site.toml").write_text(
            text.replace('"south"', '"west"').replace("min_cell = 1", "min_cell = 99")
        )
        (sites / "notes").mkdir()
        self.job = job(tiny, folder / "run", sites, baselines=("local", "pooled"), leave_one_out=True)
        self.console = Heard()
        simulate(self.job, self.console)
        self.run: RunFolder = self.job.run
        self.result: StudyResult = read(self.run.results)


@pytest.fixture(scope="module")
def finished(
    tiny: Any, tmp_path_factory: pytest.TempPathFactory, hospitals_on_disk: Path, deterministic: None
) -> Finished:
    return Finished(tiny, tmp_path_factory.mktemp("finished"), hospitals_on_disk)


def test_the_runs_folder_holds_everything(finished: Finished) -> None:
    """The seven things that a user is promised, and no half-written file."""
    promised = {"protocol.toml", "rounds.jsonl", "checkpoints", "results.json", "report.html", "model.safetensors"}
    promised |= {"descriptions.json"}
    assert {path.name for path in finished.run.path.iterdir()} == promised | {"sites", "baselines"}
    assert not list(finished.run.path.rglob("*.part"))


def test_one_digest_holds_it_together(finished: Finished) -> None:
    """protocol.toml, results.json and the model name the same study."""
    digest = finished.job.protocol.digest()
    assert read_protocol(finished.run.protocol).digest() == digest
    assert finished.result.study.digest == digest
    with safe_open(finished.run.model, framework="numpy") as file:
        assert file.metadata()["protocol_sha256"] == digest


def test_results_say_what_happened(finished: Finished) -> None:
    """Rounds as in rounds.jsonl, an operating point, every hospital's test facts or why not, flows, environment."""
    result = finished.result
    lines = [json.loads(line) for line in (finished.run.path / "rounds.jsonl").read_text().splitlines()]
    assert [one.round for one in result.rounds] == [line["round"] for line in lines] == [1, 2]
    assert result.selected.round == 2
    assert set(result.operating_point) == {"opacity"}
    assert set(result.sites) == set(result.patient_flow) == {"north", "south", "west"}
    north = result.of_site("north", "test", "opacity")
    assert north.sensitivity is not None
    assert north.sensitivity.n + north.specificity.n == north.units
    assert result.of_site("west", "test", "opacity").why == Why.SUPPRESSED
    assert result.of_pool("test", "opacity").units == north.units + result.of_site("south", "test", "opacity").units
    assert result.environment.deterministic
    assert result.weights.source == "none"


def test_a_baseline_that_cannot_be_trained_is_left_out(finished: Finished) -> None:
    """A hospital with too few patients has no local model; the other models are there, tested everywhere."""
    baselines = finished.result.baselines
    assert set(baselines.local) == {"north", "south"}
    assert baselines.pooled is not None
    for model in (*baselines.local.values(), baselines.pooled):
        assert set(model.sites) == {"north", "south", "west"}
    assert any("left out: 0 of 1 site can take part" in line for line in finished.console.lines)


def test_each_hospital_was_left_out_once(finished: Finished) -> None:
    """A model that never saw a site is tested there, and its threshold comes from the others' validation patients.

    Without `west`, too small to train, the same sites train as in the study itself: the very same model.
    """
    result = finished.result
    assert set(result.unseen) == {"north", "south", "west"}
    everywhere = result.unseen["west"].sites
    assert everywhere["north"]["opacity"].histogram == result.of_site("north", "test", "opacity").histogram
    alone = result.baselines.local["south"]
    assert result.unseen["north"].sites["north"]["opacity"].auc == alone.sites["north"]["opacity"].auc
    assert result.unseen["north"].operating_point == alone.operating_point
    told = result.new_hospital["opacity"]
    with_threshold = [site for site, model in result.unseen.items() if model.operating_point.get("opacity") is not None]
    counted = [site for site in with_threshold if site != "west"]
    assert (told.unseen, told.sites, set(told.predictions.values())) == (True, len(counted), {None})


def test_each_hospital_has_its_receipt(finished: Finished) -> None:
    """Both models' AUCs in it are those of the results: the same scores were compared; `west` has none to compare."""
    receipts, baselines = finished.result.receipts["opacity"], finished.result.baselines
    assert set(receipts) == {"north", "south"}
    for site, one in receipts.items():
        federated = finished.result.of_site(site, "test", "opacity").auc
        alone = baselines.local[site].sites[site]["opacity"].auc
        assert one.auc
        assert (one.auc.first, one.auc.second) == (federated.value, alone.value)


def withheld_in(result: StudyResult) -> set[tuple[str, str, str]]:
    """Name site, split and finding of what did not leave."""
    return {
        (site, split, finding)
        for site, splits in result.sites.items()
        for split, findings in splits.items()
        for finding, one in findings.items()
        if one.why is Why.SUPPRESSED
    }


def foretold_in(lines: list[str]) -> set[tuple[str, str, str]]:
    """Name site, split and finding of what the console said beforehand would not."""
    words = (re.match(r"  (\w+): (validation|test), (\w+): .* withheld", line) for line in lines)
    return {(found[1], found[2], found[3]) for found in words if found}


def test_what_is_withheld_was_foretold(finished: Finished) -> None:
    """Before round 1, by site, split and finding, with the number needed; then it is what the report lacks."""
    lines = finished.console.lines
    first_round = next(place for place, line in enumerate(lines) if line.startswith("  round 1"))
    foretold = foretold_in(lines[:first_round])
    assert foretold == withheld_in(finished.result) >= {("west", "validation", "opacity"), ("west", "test", "opacity")}
    assert any(re.match(r"  west: training: \d+ patients, 99 needed", line) for line in lines[:first_round])
    assert any("polyclinic partition --public" in line for line in lines[:first_round])
    assert last_line(finished.run) == str(finished.run.report)


@pytest.mark.parametrize("private", [False, True])
def test_a_run_that_can_show_nothing_says_so(tiny: Any, tmp_path: Path, sites: Path, private: bool) -> None:
    """First what will be withheld and that it is all; last, beside the report's path, that nothing is known."""
    for file in sites.glob("*/site.toml"):
        file.write_text(file.read_text().replace("min_cell = 1", "min_cell = 10"))
    study = job(tiny, tmp_path / "run", sites)
    if private:
        study = replace(
            study, protocol=tiny.private_protocol(epsilon=8.0, delta=1e-3), run=RunFolder(path=tmp_path / "private")
        )
    console = Heard()
    simulate(study, console)
    first_round = next(place for place, line in enumerate(console.lines) if line.startswith("  round 1"))
    said = " ".join(console.lines[:first_round])
    assert "All validation evidence of every hospital is withheld" in said
    assert "All test evidence of every hospital is withheld" in said
    assert foretold_in(console.lines) == withheld_in(read(study.run.results))
    line = last_line(study.run)
    assert line.startswith(
        f"{study.run.report}: it has no result, because every site withheld all of its validation and"
    )
    assert "min_cell" in line
    assert "\n" not in line


def test_a_run_of_another_version_ends_with_its_report(tmp_path: Path) -> None:
    """Results that this version cannot read, or that are not there, do not turn a finished run into a failed one."""
    run = RunFolder(path=tmp_path)
    assert last_line(run) == str(run.report)
    run.results.write_text("{}")
    assert last_line(run) == str(run.report)


def test_the_report_is_about_this_study(finished: Finished) -> None:
    """The page is there, whole, and names study and hospitals."""
    page = finished.run.report.read_text()
    assert page.rstrip().endswith("</html>")
    assert all(word in page for word in ("Tiny", "north", "south", "west", "opacity"))


def test_every_departure_is_in_the_hospitals_log(finished: Finished) -> None:
    """Each run has a chained log at each hospital, that of the pooled baseline included."""
    logs = {path.relative_to(finished.run.path / "sites").as_posix() for path in finished.run.path.rglob("audit.jsonl")}
    sites = ("north", "south", "west")
    others = [f"{kind}-{site}" for kind in ("local", "without") for site in sites]
    runs = ("federated", "pooled", *others)
    assert logs == {
        "(pooled)/audit.jsonl",
        *(f"{site}/{run}/audit.jsonl" for site in sites for run in runs),
    }
    for log in logs:
        assert list(verify(finished.run.path / "sites" / log))


def test_a_folder_without_site_toml_is_named(finished: Finished) -> None:
    """What lies among the hospitals and is none is left out, and said."""
    assert [line for line in finished.console.lines if "left out, because" in line] == [
        f"{finished.job.sites / 'notes'}: left out, because it has no site.toml"
    ]


def test_a_finished_run_resumed_gives_the_same_files(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained again; the model and the results, from which the report is drawn, are the same bytes."""
    before = {path: path.read_bytes() for path in (finished.run.model, finished.run.results)}
    drawn: list[Path] = []
    monkeypatch.setattr("server.finish.write_report", lambda _, path: drawn.append(path))
    console = Heard()
    simulate(finished.job, console)
    assert {path: path.read_bytes() for path in before} == before
    assert drawn == [finished.run.report]
    assert not any("round" in line for line in console.lines)


def test_a_run_is_not_resumed_over_other_hospitals(finished: Finished, sites: Path) -> None:
    """Its model is made of those that began it: results of other ones under it would be nobody's."""
    model = finished.run.model.read_bytes()
    with pytest.raises(FederationError, match=r"begun over a folder of hospitals \(.*north.*\)\. Name it with --sites"):
        simulate(replace(finished.job, sites=None), Heard())
    assert not finished.run.hospitals.exists()
    with pytest.raises(
        FederationError, match=r"its hospitals are north, south, and .* was begun over north, south, west"
    ):
        simulate(replace(finished.job, sites=sites), Heard())
    assert finished.run.model.read_bytes() == model


def test_missing_weights_are_said_before_an_image_is_read(tiny: Any, sites: Path, tmp_path: Path) -> None:
    """Preparing a hospital can take hours; what needs no image is refused before."""
    study = job(tiny, tmp_path / "run", sites, model={"weights": "file"})
    console = Heard()
    with pytest.raises(WeightsError):
        simulate(study, console)
    assert not list(sites.glob("*/cache"))
    assert not console.lines


def test_leaving_out_is_refused_where_layers_never_leave(tiny: Any, tmp_path: Path) -> None:
    """A site that kept no layers of a model would test it with none that were trained."""
    study = job(tiny, tmp_path, None, leave_one_out=True, federation={"local_norm": True}, model={"norm": "batch"})
    with pytest.raises(StudyError, match="--leave-one-out tests a model where it was not trained"):
        refuse_impossible(study)


def test_own_layers_are_compared_with_the_shared_ones(tiny: Any, sites: Path, tmp_path: Path) -> None:
    """--baselines personal runs the study with FedBN, and pairs it with the federated model at each site."""
    study = job(
        tiny,
        tmp_path / "run",
        sites,
        baselines=("personal",),
        model={"unfreeze": [{"round": 1, "from": "layer4"}]},
        federation={"rounds": 1},
    )
    simulate(study, Heard())
    result = read(study.run.results)
    assert set(result.personal["opacity"]) == {"north", "south"}
    for site, one in result.personal["opacity"].items():
        federated = result.of_site(site, "test", "opacity").auc
        assert one.auc
        assert federated
        assert one.auc.second == federated.value
    assert list((study.run.path / "sites" / "north").rglob("norm-*.safetensors"))


def test_a_site_tests_what_is_made_of_both_heads(
    tiny: Any, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--baselines local,blend takes the federated head and the site's own, and pairs what comes of them with its own.

    Made of them is here a head of zeros: an AUC of .5 shows that this one was tested, and nobody trained it further.
    """
    made: list[tuple[Any, Any]] = []

    def zeros(one: Any, other: Any) -> dict[str, Any]:
        made.append((one, other))
        return {name: np.zeros_like(array) for name, array in one.items()}

    monkeypatch.setattr(main_job, "half_and_half", zeros)
    study = job(tiny, tmp_path / "run", sites, baselines=("local", "blend"), federation={"rounds": 1})
    simulate(study, Heard())
    result = read(study.run.results)
    folders = [(study.run.path, study.run.baseline(f"local-{site}")) for site in ("north", "south")]
    for models, of in zip(made, folders, strict=True):
        for model, folder in zip(models, of, strict=True):
            (saved,) = (load_file(file) for file in (folder / "checkpoints").glob("*.safetensors"))
            assert {f"model/{name}": array.tolist() for name, array in model.items()} == {
                name: array.tolist() for name, array in saved.items()
            }
    for site, one in result.blended["opacity"].items():
        own = result.baselines.local[site].sites[site]["opacity"].auc
        assert one.auc
        assert own
        assert (one.auc.first, one.auc.second) == (0.5, own.value)
    assert set(result.blended["opacity"]) == {"north", "south"}


@pytest.mark.parametrize(
    ("baselines", "sections", "said"),
    [
        (("blend",), {}, "Add local"),
        (("local", "blend"), {"model": {"unfreeze": [{"round": 1, "from": "layer4"}]}}, "features of its own"),
        (("local", "blend"), {"images": {"harmonise": "landmarks"}}, "features of its own"),
    ],
)
def test_halves_that_do_not_fit_are_refused(
    tiny: Any, tmp_path: Path, baselines: tuple[str, ...], sections: Any, said: str
) -> None:
    """Heads are averaged where both stand on the same features, and where there are two."""
    with pytest.raises(StudyError, match=said):
        refuse_impossible(job(tiny, tmp_path, None, baselines=baselines, **sections))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "only the head trains"),
        ({"model": {"norm": "folded", "unfreeze": [{"round": 1, "from": "layer4"}]}}, "folded"),
    ],
)
def test_own_layers_that_cannot_be_are_refused(tiny: Any, tmp_path: Path, sections: Any, said: str) -> None:
    """A study in which no layer moves, or none is left, has nothing of its own to keep."""
    with pytest.raises(StudyError, match=said):
        refuse_impossible(job(tiny, tmp_path, None, baselines=("personal",), **sections))


def test_unknown_baselines_are_refused(tiny: Any, tmp_path: Path) -> None:
    """A misspelt baseline is named, with those that there are."""
    with pytest.raises(StudyError, match=r"--baselines lokal: .*local, pooled"):
        refuse_impossible(job(tiny, tmp_path, None, baselines=("local", "lokal")))


def test_baselines_of_local_norm_are_refused(tiny: Any, tmp_path: Path) -> None:
    """A model whose layers never leave its site cannot be tested elsewhere; without baselines the study is fine."""
    study = job(tiny, tmp_path, None, baselines=("pooled",), federation={"local_norm": True})
    with pytest.raises(StudyError, match="local_norm"):
        refuse_impossible(study)
    refuse_impossible(replace(study, baselines=()))


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_hospitals_is_refused(tiny: Any, tmp_path: Path, there: bool) -> None:
    """Whether it is empty or missing, the message says what such a folder needs."""
    folder = tmp_path / "sites"
    if there:
        folder.mkdir()
    said = r"no hospital is there\. .*site\.toml" if there else r"there is no such folder\. .*each hospital"
    with pytest.raises(FederationError, match=rf"sites: {said}"):
        prepare_sites(job(tiny, tmp_path / "run", folder), Heard())


def test_two_hospitals_of_one_name_are_refused_at_once(
    tiny: Any, tmp_path: Path, sites: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is part of every patient's split, so that it must be one hospital's; nothing is prepared before."""
    file = sites / "south" / "site.toml"
    file.write_text(file.read_text().replace('"south"', '"north"'))
    monkeypatch.setattr(main_job, "prepare", None)
    with pytest.raises(FederationError, match="two hospitals are called 'north'"):
        prepare_sites(job(tiny, tmp_path / "run", sites), Heard())


def test_a_fault_names_its_hospital(tiny: Any, tmp_path: Path, sites: Path) -> None:
    """All files are called site.toml and dicom: the message says whose is wrong, and no patient is in it."""
    study = job(tiny, tmp_path / "run", sites)
    shutil.rmtree(sites / "south" / "dicom")
    with pytest.raises(DataError) as missing:
        prepare_sites(study, Heard())
    (sites / "south" / "dicom").mkdir()
    with pytest.raises(DataError, match="holds no file") as empty:
        prepare_sites(study, Heard())
    (sites / "south" / "dicom" / "DOE^JOHN.dcm").write_bytes(b"no image")
    with pytest.raises(DataError, match="has no image that the study can use") as unreadable:
        prepare_sites(study, Heard())
    file = sites / "south" / "site.toml"
    file.write_text(file.read_text().replace("[site]", "[site]\nnme = 1"))
    with pytest.raises(SiteError, match="Did you mean 'name'") as misspelt:
        prepare_sites(study, Heard())
    for fault in (missing, empty, unreadable, misspelt):
        assert str(fault.value).startswith(f"{sites / 'south'}: ")
        assert "DOE" not in str(fault.value)


def test_synthetic_hospitals_are_made_once(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --sites the study's own hospitals are written into the run; a hospital that is whole is kept."""
    made: list[str] = []
    original = main_job.hospitals

    def two_small(seed: int) -> tuple[SyntheticSite, ...]:
        assert seed == study.protocol.random_seed("hospitals")
        return tuple(replace(site, patients=6) for site in original(seed)[:2])

    write = main_job.write

    def counted(site: SyntheticSite, *args: Any, **kwargs: Any) -> Any:
        made.append(site.name)
        return write(site, *args, **kwargs)

    monkeypatch.setattr(main_job, "hospitals", two_small)
    monkeypatch.setattr(main_job, "write", counted)
    study = job(tiny, tmp_path, None)
    first = prepare_sites(study, Heard())
    assert sorted(site.name for site in first) == sorted(made) == ["east", "north"]
    (study.run.hospitals / "east" / "site.toml").unlink()
    again = prepare_sites(study, Heard())
    assert sorted(made) == ["east", "east", "north"]
    assert [site.pixels.digest for site in again][1:] == [site.pixels.digest for site in first][1:]
    assert [site.cohort.flow for site in again] == [site.cohort.flow for site in first]
