"""The evidence pack: whole, checkable, the same bytes each time, and plain about what it does not cover."""

import csv
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from typer.testing import CliRunner

from server import guidance
from server.bootstrap import compose
from server.checkpoint import save_tensors
from server.evidence import RunEvidence, gather
from server.evidence_pack import write_pack
from server.finding_result import Why, absent
from server.model_card import render
from server.report import render as render_report
from server.report import write as write_report
from server.report_tables import exclusion_reasons
from server.results import SitePrivacy, StudyResult
from server.results_json import write as write_results
from server.run_folder import RunFolder
from shared.audit import AuditLog
from shared.cli import application
from shared.errors import StorageError, WeightsError
from shared.model_facts import write_facts
from shared.preprocessing import golden_phantom, prepare


@pytest.fixture(scope="module")
def finished(tiny: Any, study_result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Give a finished run's folder: the sample study's results, with a model and a protocol that belong to them."""
    protocol = tiny.protocol(
        task={"findings": list(study_result.study.findings)},
        images={"window": [500.0, 1000.0]},
        study={"name": study_result.study.name, "intended_use": study_result.study.intended_use},
    )
    found = RunFolder(path=tmp_path_factory.mktemp("finished") / "runs" / "one")
    found.path.mkdir(parents=True)
    found.protocol.write_text(protocol.to_toml(), encoding="utf-8")
    own = replace(study_result.study, digest=protocol.digest(), protocol=protocol.to_toml())
    write_results(replace(study_result, study=own), found.results)
    write_report(replace(study_result, study=own), found.report)
    coordinator, _ = compose(protocol, weights_file=None)
    facts = write_facts(protocol, coordinator.initial, thresholds={}, number=2, standard=(), norm_layers="trained")
    save_tensors(found.model, coordinator.initial, facts=facts)
    return found


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """Give a copy of it, to be changed."""
    shutil.copytree(finished.path, tmp_path / "runs" / "one")
    return RunFolder(path=tmp_path / "runs" / "one")


@pytest.fixture(scope="module")
def evidence(finished: RunFolder) -> RunEvidence:
    """Give what is gathered from it."""
    return gather(finished)


def unpacked(path: Path) -> dict[str, bytes]:
    with ZipFile(path) as pack:
        return {name: pack.read(name) for name in pack.namelist()}


def test_every_file_is_in_the_list_of_digests_and_checks(run: RunFolder, tmp_path: Path) -> None:
    """`sha256sum -c` finds the pack whole, and one changed byte is found."""
    pack = tmp_path / "out.zip"
    done = CliRunner().invoke(application(), ["report", str(run.path), "--pack", str(pack)])
    assert done.exit_code == 0, done.output
    files = unpacked(pack)
    digests = files["digests.sha256"]
    assert f"{hashlib.sha256(digests).hexdigest()}" in done.output
    listed = dict(reversed(line.split("  ")) for line in digests.decode().splitlines())
    assert listed == {n: hashlib.sha256(c).hexdigest() for n, c in files.items() if n != "digests.sha256"}
    folder = tmp_path / "unpacked"
    with ZipFile(pack) as opened:
        opened.extractall(folder)
    sha256sum = shutil.which("sha256sum")
    if sha256sum is None:
        pytest.skip("this system has no sha256sum")
    assert subprocess.run([sha256sum, "-c", "digests.sha256"], cwd=folder, capture_output=True).returncode == 0
    (folder / "results.json").write_bytes(files["results.json"] + b" ")
    assert subprocess.run([sha256sum, "-c", "digests.sha256"], cwd=folder, capture_output=True).returncode != 0


def test_the_same_run_gives_the_same_bytes(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever and wherever it is packed; another result gives another pack."""
    write_pack(run, tmp_path / "1.zip")
    monkeypatch.setattr("time.time", lambda: 2e9)
    shutil.copytree(run.path, tmp_path / "elsewhere" / "runs" / "two")
    write_pack(RunFolder(path=tmp_path / "elsewhere" / "runs" / "two"), tmp_path / "2.zip")
    first = (tmp_path / "1.zip").read_bytes()
    assert first == (tmp_path / "2.zip").read_bytes()
    assert str(tmp_path).encode() not in first
    run.report.write_text(run.report.read_text(encoding="utf-8") + " ", encoding="utf-8")
    write_pack(run, tmp_path / "3.zip")
    assert first != (tmp_path / "3.zip").read_bytes()


def test_the_facts_are_those_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    """Digests of weights, study and preprocessing, counts by site, approvals and versions stand in evidence.json."""
    AuditLog(run.path / "sites" / "north" / "federated" / "audit.jsonl").append("departure")
    log = AuditLog(run.path / "sites" / "north" / "federated" / "audit.jsonl")
    write_pack(run, tmp_path / "out.zip")
    facts = json.loads(unpacked(tmp_path / "out.zip")["evidence.json"])
    evidence = gather(run)
    assert facts["model"]["file_sha256"] == hashlib.sha256(run.model.read_bytes()).hexdigest()
    assert facts["model"]["arrays_sha256"] == evidence.facts.arrays_sha256
    assert facts["study"]["digest"] == evidence.facts.protocol.digest()
    assert facts["preprocessing"]["sha256"] == evidence.facts.contract.digest()
    assert facts["audit_chains"] == {"north (federated)": {"lines": 1, "head": log.head}}
    assert set(facts["approvals"]) == set(evidence.result.site_names)
    assert {one["word"] for one in facts["approvals"].values()} == {"simulated"}
    assert set(facts["data"]) == set(evidence.result.patient_flow)
    # The sample study's hillcrest holds back its validation patients and one exclusion, and excluded no copy.
    hillcrest = facts["data"]["hillcrest"]
    assert hillcrest["splits"]["validation"]["patients"] is None
    assert hillcrest["excluded"] == {"duplicate_image": 0, "no_patient": None, "not_labelled": 6, "truncated": 0}


def test_another_program_can_check_its_preprocessing(run: RunFolder, tmp_path: Path) -> None:
    """From phantom.csv, with the spacing and window that the card names, comes phantom_prepared.csv to the bit."""
    write_pack(run, tmp_path / "out.zip")
    files = unpacked(tmp_path / "out.zip")
    phantom, prepared = (
        np.loadtxt(io.BytesIO(files[name]), delimiter=",") for name in ("phantom.csv", "phantom_prepared.csv")
    )
    np.testing.assert_array_equal(phantom, golden_phantom()[..., 0])
    found = prepare(
        phantom[..., np.newaxis].astype(np.float32),
        spacing_mm=(1.0, 1.5),
        window=(600.0, 700.0),
        contract=gather(run).contract,
    )
    np.testing.assert_array_equal(prepared, found[0])
    card = files["model_card.html"].decode()
    assert "spacing 1 × 1.5 mm, window centre 600, width 700" in card


def test_the_card_says_what_it_does_not_cover(evidence: RunEvidence) -> None:
    """Every item of the table is on the page with what is missing; nothing on it claims conformity or is fetched."""
    page = render(evidence)
    plain = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for item in guidance.items():
        assert item.title in plain
        assert item.missing in plain
    assert "no claim of conformity" in plain
    assert "Not a medical device" in plain
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)


def test_the_card_tells_suppressed_undefined_and_zero_apart(evidence: RunEvidence) -> None:
    """The sample study has a site whose counts are suppressed: it stands there by name, and not as 0."""
    page = render(evidence)
    cells = {
        tuple(re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row))
        for row in re.findall(r"<tr><th scope=\"row\">hillcrest</th>(.*?)</tr>", page, flags=re.DOTALL)
    }
    assert any(row[:3] == ("validation", "suppressed", "suppressed") for row in cells)
    flow = evidence.result.patient_flow["hillcrest"]
    words = {None: "suppressed", 0: "0", 6: "6"}
    flows = evidence.result.patient_flow.values()
    reasons = [
        one for one in exclusion_reasons(evidence.result) if any(flow.excluded.get(one, 0) != 0 for flow in flows)
    ]
    assert "no_patient" in reasons, "a suppressed count is not taken for zero"
    assert ("85", *(words[flow.excluded.get(reason, 0)] for reason in reasons)) in cells


def test_the_card_counts_one_hospital_as_one(evidence: RunEvidence) -> None:
    """A study of one hospital and one round has no "1 sites", at its top and where its training is told."""
    result = evidence.result
    site = next(iter(result.sites))
    alone = replace(
        result,
        rounds=(replace(result.rounds[0], sites={}),),
        sites={site: result.sites[site]},
        patient_flow={site: result.patient_flow[site]},
    )
    page = render(replace(evidence, result=alone))
    assert "1 site · the model" in page
    assert f"1 round of {evidence.facts.protocol.federation.strategy} over 1 site;" in page


def test_the_card_says_not_assessed_where_a_hospital_does_not_assess_a_finding(evidence: RunEvidence) -> None:
    """Counts of a finding that a hospital's settings do not name are not told as held back, on card or page."""
    result = evidence.result
    site, finding = next(iter(result.patient_flow)), result.study.findings[0]
    nowhere = {split: {**found, finding: absent(Why.NOT_ASSESSED)} for split, found in result.sites[site].items()}
    unassessed = replace(result, sites={**result.sites, site: nowhere})
    cell = '<span class="absent">not assessed</span></td>'
    splits = len(result.patient_flow[site].splits)
    assert render(replace(evidence, result=unassessed)).count(cell) == splits
    assert cell not in render(evidence)
    flow = render_report(unassessed).partition('aria-label="Patients by split"')[2].partition("</table>")[0]
    assert flow.count(cell) == splits


def test_the_card_of_classes_shows_what_each_was_called(evidence: RunEvidence) -> None:
    """The confusion matrix stands on the card as on the page, and on no card of findings."""
    result = evidence.result
    site, names = next(iter(result.sites)), result.study.findings
    tests = {
        name: replace(result.sites[site]["test"][name], positives=4, called_as=(3, *[1] * (len(names) - 1)))
        for name in names
    }
    sites = {**result.sites, site: {**result.sites[site], "test": tests}}
    classes = replace(result, study=replace(result.study, exclusive=True), sites=sites)
    page = render(replace(evidence, result=classes))
    table = page.partition(f'aria-label="Which class is called which, {site}"')[2].partition("</table>")[0]
    assert f"called {names[0]}</th>" in table
    assert "75.0" in table
    assert "Which class is called which" not in render(evidence)


def test_a_name_that_is_html_stays_text(evidence: RunEvidence) -> None:
    """A study's own words cannot put anything into the page."""
    nasty = replace(evidence.result.study, intended_use="<script>alert(1)</script>")
    page = render(replace(evidence, result=replace(evidence.result, study=nasty)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_privacy_and_approvals_are_those_that_were(run: RunFolder) -> None:
    """A private study shows its ε rounded up; a site that a person approved is not called simulated."""
    status = {
        "stage": "finished",
        "round": 2,
        "rounds": 2,
        "since": "",
        "sites": {"st_marys": {"package": "0.1.0", "approval": "approved"}},
    }
    run.status.write_text(json.dumps(status), encoding="utf-8")
    run.order.write_text("{}", encoding="utf-8")
    AuditLog(run.path.parent.parent / "audit.jsonl").append("invited")
    evidence = gather(run)
    assert evidence.approvals["st_marys"].word == "approved"
    assert {one.word for site, one in evidence.approvals.items() if site != "st_marys"} == {"not told"}
    assert list(evidence.chains) == ["coordinator"]
    private = SitePrivacy(
        epsilon=1.2311,
        delta=1e-5,
        unit="patient",
        budget=2.0,
        accountant="prv",
        public_patients=100,
        rounds=2,
        steps=10,
        sample_rate=0.1,
        noise_multiplier=1.5,
        clip=0.3,
        counts_epsilon=0.0,
        seeded=False,
    )
    without = render(evidence)
    page = render(replace(evidence, result=replace(evidence.result, privacy={"st_marys": private})))
    assert "approved by a person there" in page
    assert "no differential privacy" in without
    assert "no differential privacy" not in page
    assert "ε = 1.24" in page


def test_parts_that_do_not_belong_together_are_refused(run: RunFolder, tiny: Any, tmp_path: Path) -> None:
    """Another study's protocol, a changed model, a broken chain, an unfinished run: no pack is written."""
    own = run.protocol.read_text(encoding="utf-8")
    run.protocol.write_text(tiny.protocol(study={"name": "Other"}).to_toml(), encoding="utf-8")
    with pytest.raises(StorageError, match="not of one study"):
        write_pack(run, tmp_path / "out.zip")
    run.protocol.write_text(own, encoding="utf-8")
    log = run.path / "sites" / "north" / "federated" / "audit.jsonl"
    for event in ("one", "two"):
        AuditLog(log).append(event)
    log.write_text(log.read_text().replace('"one"', '"uno"'))
    with pytest.raises(StorageError, match="chain breaks at line 1"):
        write_pack(run, tmp_path / "out.zip")
    log.unlink()
    whole = run.model.read_bytes()
    run.model.write_bytes(whole[:-4] + b"\0\1\2\3")
    with pytest.raises(WeightsError, match="changed"):
        write_pack(run, tmp_path / "out.zip")
    run.model.unlink()
    with pytest.raises(StorageError, match=r"model\.safetensors is not there"):
        write_pack(run, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_the_table_names_real_items_once_and_says_what_is_missing() -> None:
    """All ten principles, all 27 items, one standing each; whatever is not fully shown says what is missing."""
    table = list(guidance.items())
    assert {one.framework for one in table} == set(guidance.SOURCES)
    keys = [(one.framework, one.item) for one in table]
    assert len(keys) == len(set(keys))
    assert [one.item for one in table if one.framework == "GMLP 2021"] == [str(number) for number in range(1, 11)]
    named = [number for one in table if one.framework == "TRIPOD+AI 2024" for number in numbers(one.item)]
    assert sorted(set(named)) == list(range(1, 28))
    for one in table:
        assert one.standing in guidance.STANDINGS
        assert bool(one.where) == (one.standing != "not covered")
        assert one.missing or one.standing == "shown"
    assert csv.reader(guidance.TABLE.read_text(encoding="utf-8").splitlines())


def numbers(item: str) -> range:
    """Read "9a-9c", "25-26" or "14" as the numbers that it spans."""
    found = [int(number) for number in re.findall(r"\d+", item)]
    return range(found[0], found[-1] + 1)
