"""What is approved is one digest, after an invitation that holds together; everything else is not."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.approval import EVERYTHING, RECORD, Approvals, Invited, read_invited
from client.approval_words import explain, key_words
from server.bundle import build_bundle
from shared.audit import GENESIS, AuditLog, head_of
from shared.errors import SiteError, StorageError
from shared.invitation import CA, INVITATION, STUDY, Invitation, write_paper
from shared.messages import WIRE_VERSION
from shared.protocol import StudyProtocol
from shared.signing import SigningKey, fingerprint

KEY = SigningKey.draw()
AT = datetime(2026, 3, 1, tzinfo=UTC)


def invite(folder: Path, protocol: StudyProtocol, **changes: str) -> Path:
    """Write what a coordinator sends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STUDY).write_text(protocol.to_toml())
    (folder / CA).write_text("a certificate")
    (folder / "courier.fab").write_bytes(build_bundle())
    named = {
        "site": "north",
        "coordinator": "Trial office",
        "address": "fl.example.org:443",
        "study": "Tiny",
        "digest": protocol.digest(),
        "initial": "0" * 64,
        "weights": "",
        "bundle": hashlib.sha256(build_bundle()).hexdigest(),
        "ca": hashlib.sha256(b"a certificate").hexdigest(),
        "encoding": WIRE_VERSION,
        "signing": KEY.public,
    }
    write_paper(Invitation(**named | changes), folder / INVITATION)
    return folder


def accept(approvals: Approvals, folder: Path, at: datetime = AT, audit_head: str = GENESIS) -> Any:
    invited = read_invited(folder, site="north")
    return approvals.record(invited, approved_by="Dr. Data", weights="", at=at, audit_head=audit_head)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / CA).write_text("another"), "ca.crt is not the one"),
        (lambda folder: (folder / CA).unlink(), "cannot be read"),
        (lambda folder: (folder / "courier.fab").write_bytes(b"hostile"), "bundle is not the one"),
        (lambda folder: (folder / "second.fab").write_bytes(b"hostile"), "bundle is not the one"),
    ],
    ids=["certificate", "no certificate", "bundle", "a second bundle"],
)
def test_an_invitation_whose_parts_do_not_belong_together_is_refused(
    tiny: Any, tmp_path: Path, break_it: Any, says: str
) -> None:
    """Each file must be the one that the invitation names by its hash."""
    folder = invite(tmp_path, tiny.protocol())
    read_invited(folder, site="north")
    break_it(folder)
    with pytest.raises(SiteError, match=says):
        read_invited(folder, site="north")


def test_a_bundle_that_brings_anything_of_its_own_is_not_approved(tiny: Any, tmp_path: Path) -> None:
    """Also where the invitation names it: a coordinator that invites with code of its own."""
    foreign = b"code"
    folder = invite(tmp_path, tiny.protocol(), bundle=hashlib.sha256(foreign).hexdigest())
    (folder / "courier.fab").write_bytes(foreign)
    with pytest.raises(SiteError, match="not Polyclinic's manifest without code"):
        read_invited(folder, site="north")


def test_another_study_than_named_is_refused(tiny: Any, tmp_path: Path) -> None:
    """One setting differs, and the digest does; so does an invitation for another hospital."""
    folder = invite(tmp_path, tiny.protocol())
    (folder / STUDY).write_text(tiny.protocol(federation={"rounds": 3}).to_toml())
    with pytest.raises(SiteError, match="not the study that the invitation names"):
        read_invited(folder, site="north")
    with pytest.raises(SiteError, match="'south'"):
        read_invited(folder, site="south")


def test_an_approval_is_kept_with_its_study(tiny: Any, tmp_path: Path) -> None:
    """Who, when, what and from where; another process reads the same."""
    protocol = tiny.protocol()
    accept(Approvals(tmp_path / "studies"), invite(tmp_path / "sent", protocol))
    (study,) = Approvals(tmp_path / "studies").all()
    assert study.protocol == protocol
    assert (study.digest, study.when, study.approval.approved_by) == (protocol.digest(), AT, "Dr. Data")
    assert study.approval.invitation.address == "fl.example.org:443"


def test_an_approval_has_its_place_in_the_audit_log(tiny: Any, tmp_path: Path) -> None:
    """What stands after that line counts; everything does in a log that has no such line, or of an earlier version."""
    path, approvals = tmp_path / "audit.jsonl", Approvals(tmp_path / "studies")
    sent = invite(tmp_path / "sent", tiny.protocol())
    assert accept(approvals, sent, audit_head=head_of(path)).since(path) == EVERYTHING
    log = AuditLog(path)
    log.append("task begun")
    log.append("task begun")
    before = path.read_bytes()
    study = accept(approvals, sent, audit_head=head_of(path))
    log.append("task begun")
    assert [one.since(path) for one in (study, *Approvals(tmp_path / "studies").all())] == [2, 2]
    path.write_bytes(before.splitlines(keepends=True)[0])  # half a backup put back
    assert study.since(path) == EVERYTHING
    record = study.folder / RECORD
    record.write_text("".join(line for line in record.read_text().splitlines(True) if "audit_head" not in line))
    path.write_bytes(before)
    assert approvals.all()[0].since(path) == EVERYTHING


def test_a_study_that_was_changed_after_its_approval_is_not_served(tiny: Any, tmp_path: Path) -> None:
    """The file on the hospital's own disk must still have the approved digest."""
    study = accept(Approvals(tmp_path / "studies"), invite(tmp_path / "sent", tiny.protocol()))
    text = (study.folder / STUDY).read_text()
    (study.folder / STUDY).write_text(text.replace("rounds = 2", "rounds = 200"))
    with pytest.raises(SiteError, match="not the one that was approved"):
        Approvals(tmp_path / "studies").all()


def test_what_others_write_into_the_folder_meanwhile_is_not_approved(tiny: Any, tmp_path: Path) -> None:
    """Between the question and the answer lies a telephone call: what was read and checked is pinned, byte for byte."""
    protocol = tiny.protocol()
    folder = invite(tmp_path / "sent", protocol)
    invited = read_invited(folder, site="north")
    for path in folder.iterdir():
        path.write_text("another")
    approvals = Approvals(tmp_path / "studies")
    study = approvals.record(invited, approved_by="Dr. Data", weights="", at=AT, audit_head=GENESIS)
    assert (study.folder / CA).read_bytes() == b"a certificate"
    assert approvals.all() == [study]
    assert (study.protocol, study.approval.invitation) == (protocol, invited.invitation)


def test_an_authority_that_was_changed_after_its_approval_is_not_served(tiny: Any, tmp_path: Path) -> None:
    """TLS is the updates' only cover: the certificate on the hospital's own disk must have the approved hash."""
    approvals = Approvals(tmp_path / "studies")
    study = accept(approvals, invite(tmp_path / "sent", tiny.protocol()))
    (study.folder / CA).write_text("another")
    with pytest.raises(SiteError, match=r"ca\.crt is not the authority that was approved"):
        approvals.all()
    (study.folder / CA).unlink()
    with pytest.raises(SiteError, match="cannot be read"):
        approvals.all()


def test_a_study_is_named_by_the_beginning_of_its_digest(tiny: Any, tmp_path: Path) -> None:
    """The only one needs no name; of several, one must be named; the newest approval is listed first."""
    approvals = Approvals(tmp_path / "studies")
    with pytest.raises(SiteError, match="no study is approved here"):
        approvals.pick(None)
    first = accept(approvals, invite(tmp_path / "a", tiny.protocol()))
    assert approvals.pick(None).digest == first.digest
    later = datetime(2026, 3, 2, tzinfo=UTC)
    second = accept(approvals, invite(tmp_path / "b", tiny.protocol(federation={"rounds": 3})), at=later)
    assert [study.digest for study in approvals.all()] == [second.digest, first.digest]
    assert approvals.pick(first.digest[:6]).digest == first.digest
    with pytest.raises(SiteError, match="several"):
        approvals.pick(None)
    with pytest.raises(SiteError, match="no approved study"):
        approvals.pick("zz")


def test_an_ended_study_is_no_longer_approved(tiny: Any, tmp_path: Path) -> None:
    """Its stored replies go; what it delivered and the study itself stay."""
    approvals = Approvals(tmp_path / "studies")
    study = accept(approvals, invite(tmp_path / "sent", tiny.protocol()))
    for part in ("tasks/replies", "rounds", "delivered"):
        (study.folder / part).mkdir(parents=True)
    approvals.end(study)
    assert approvals.all() == []
    assert sorted(path.name for path in study.folder.iterdir()) == [CA, "delivered", STUDY]


def test_only_the_approval_that_is_served_stands(tiny: Any, tmp_path: Path) -> None:
    """One that was taken back does not, nor one in whose place another came: a new key, or the same anew."""
    approvals, protocol = Approvals(tmp_path / "studies"), tiny.protocol()
    served = accept(approvals, invite(tmp_path / "sent", protocol))
    assert approvals.stands(served)
    approvals.end(served)
    assert not approvals.stands(served)
    anew = accept(approvals, invite(tmp_path / "sent again", protocol, signing=SigningKey.draw().public))
    assert (anew.digest, approvals.stands(anew), approvals.stands(served)) == (served.digest, True, False)
    later = accept(approvals, invite(tmp_path / "later", protocol), at=datetime(2026, 3, 2, tzinfo=UTC))
    assert (approvals.stands(later), approvals.stands(served)) == (True, False)
    (later.folder / RECORD).write_text("no approval")
    assert not approvals.stands(later)
    (later.folder / RECORD).unlink()
    (later.folder / RECORD).symlink_to(RECORD)  # a disk that does not answer: it is there, and cannot be read
    with pytest.raises(StorageError, match="cannot be read now"):
        approvals.stands(later)


def words(tiny: Any, folder: Path, *, min_cell: int = 7, numbers: int = 500_000, **sections: Any) -> str:
    import numpy as np

    protocol = tiny.protocol(**sections)
    invited: Invited = read_invited(invite(folder, protocol), site="north")
    update = {"fc.weight": np.zeros(numbers, np.float32)}
    return "\n".join(explain(invited, min_cell=min_cell, update=update, rounds_per_day=3))


def test_what_leaves_first_is_told_first(tiny: Any, tmp_path: Path) -> None:
    """The patient flow, which the audit log has as the first departure, is among what a person approves."""
    said = words(tiny, tmp_path).split("What will leave\n")[1]
    assert said.startswith("Before round 1 leaves, once, the patient flow: how many files were found")


@pytest.mark.parametrize(
    "imitated",
    ["\n\nWhat privacy it promises\n- All of it.", " " * 200 + "Digest " + "0" * 64, "x" * 300, "\n- Nothing leaves."],
)
def test_no_line_of_a_study_passes_for_one_of_ours(tiny: Any, tmp_path: Path, imitated: str) -> None:
    """What its author wrote stands behind a bar, in lines that no terminal breaks; the rest is as without it."""
    text = f"To find pneumonia.{imitated}"
    said = words(tiny, tmp_path / "one", study={"intended_use": text}).splitlines()
    quoted = [line for line in said if line.startswith("  |")]
    assert "".join("".join(line.removeprefix("  |").split()) for line in quoted) == "".join(text.split())
    assert max(map(len, quoted)) <= 80
    ours = words(tiny, tmp_path / "two", study={"intended_use": "To find it."}).splitlines()
    beside, named = ([line for line in lines if not line.startswith("  |")] for lines in (said, ours))
    own = ("Digest", "Fingerprint")  # of the study, which is another one
    assert [line for line in beside if not line.startswith(own)] == [line for line in named if not line.startswith(own)]


def invitation_of(tiny: Any, folder: Path, key: SigningKey, **changes: str) -> Invitation:
    return read_invited(invite(folder, tiny.protocol(), signing=key.public, **changes), site="north").invitation


def test_the_coordinators_key_is_told_apart_from_another(tiny: Any, tmp_path: Path) -> None:
    """New, the one approved before, one that this one has signed, and one that nobody vouches for."""
    first, second = SigningKey.draw(), SigningKey.draw()
    known = [invitation_of(tiny, tmp_path / "known", first)]
    word = {"signing_before": first.public, "endorsement": first.endorse(second.public)}
    followed = invitation_of(tiny, tmp_path / "followed", second, **word)
    unknown = invitation_of(tiny, tmp_path / "unknown", second)
    elsewhere = {"coordinator": "Other office", "address": "other.example.org:443", "digest": "0" * 64}
    other = unknown.model_copy(update=elsewhere)
    assert "has approved no key" in key_words(known[0], [])
    assert "has approved before" in key_words(known[0], known)
    assert "has signed it" in key_words(followed, known)
    assert "ANOTHER" in key_words(unknown, known)
    assert "has approved no key" in key_words(other, known)
    for one in (known[0], followed, unknown):
        assert fingerprint(one.signing) in key_words(one, known)


def test_a_forged_word_for_a_new_key_is_refused(tiny: Any, tmp_path: Path) -> None:
    """Who claims that the old key vouches for the new one must have its signature."""
    first, second = SigningKey.draw(), SigningKey.draw()
    forged = {"signing_before": first.public, "endorsement": SigningKey.draw().endorse(second.public)}
    with pytest.raises(SiteError, match="has not signed the new one"):
        invitation_of(tiny, tmp_path, second, **forged)


def test_an_invitation_of_an_earlier_version_is_refused(tiny: Any, tmp_path: Path) -> None:
    """It has no key to pin: what to ask for is said. One of this version cannot leave the key out."""
    folder = invite(tmp_path, tiny.protocol())
    lines = (folder / INVITATION).read_text().splitlines()
    earlier = [line for line in lines if not line.startswith(("encoding", "signing", "endorsement"))]
    (folder / INVITATION).write_text("\n".join(earlier))
    with pytest.raises(SiteError, match="for version 2 of the encoding"):
        read_invited(folder, site="north")
    (folder / INVITATION).write_text("\n".join([*earlier, f'encoding = "{WIRE_VERSION}"']))
    with pytest.raises(SiteError, match="'signing' is missing"):
        read_invited(folder, site="north")


def test_a_private_study_is_asked_for_with_its_promise_and_its_prices(tiny: Any, tmp_path: Path) -> None:
    """What leaves is less, what is promised has a number, and no word of the other kind of study is left."""
    private = {"epsilon": 3.0, "count_noise_epsilon": 0.5}
    sections = {"model": {"norm": "folded", "features": "pooled"}, "task": {"findings": ["opacity"], "unit": "patient"}}
    told = words(tiny, tmp_path, privacy=private, training={"loss": "bce"}, **sections)
    for said in (
        "epsilon 3 at delta 1e-05",
        "reserves the whole of it in the site's ledger",
        "rounded to a multiple of 50",
        "all noised (epsilon 0.5 for each release)",
        "fewer than 7 patients",
        "features = 'pooled' lets",
    ):
        assert said in told
    assert "no differential privacy" not in told
    assert "mean loss" not in told
    assert "mean of the images' features" not in told
    unit, several = {"model": {"norm": "folded", "features": "unit"}}, {"federation": {"rounds": 5}}
    centred = words(
        tiny, tmp_path, privacy={"epsilon": 3.0, "centre_rounds": 4}, training={"loss": "bce"}, **unit, **several
    )
    assert "The first 4 of these rounds estimate the mean of the images' features" in centred


def test_an_approval_is_asked_for_in_plain_words(tiny: Any, tmp_path: Path) -> None:
    """What is computed, what leaves, who sees it, that nothing is guaranteed, and what it costs."""
    told = words(tiny, tmp_path, task={"findings": ["opacity", "effusion"]}, federation={"rounds": 5})
    for said in (
        "invited by Trial office",
        "opacity, effusion",
        "5 rounds",
        "The coordinator sees this hospital's update by itself",
        "fewer than 7 patients",
        "no differential privacy",
        "up to 2.0 MB come in twice",
        "3 rounds a day",
    ):
        assert said in told
    half = words(tiny, tmp_path / "half", task={"classes": ["a", "b"]}, federation={"wire": "fp16"})
    assert "up to 1.0 MB" in half
    assert "Which one of these is true: a, b" in half
    assert "grey levels" not in half
    harmonised = words(tiny, tmp_path / "harmonised", images={"harmonise": "landmarks"})
    assert "Before round 1 leaves, once, where grey levels of images lie on average" in harmonised
    assert "unless they are fewer than 7" in harmonised
    assert "Each hospital's own nine numbers stand in the report that all hospitals get" in harmonised
    assert "own threshold" not in harmonised
    both = words(tiny, tmp_path / "own", evaluation={"own_settings": ["threshold", "calibration"]})
    assert "comes this hospital's own threshold and calibration" in both
    assert "tells training patients with each finding from those without, and how many are" in both.replace("\n", " ")


def test_an_approval_says_how_finely_patients_are_counted(tiny: Any, tmp_path: Path) -> None:
    """By five traits in thousands of bins is more than in eight bins by none, and one bin may hold one patient."""
    fine = {"score_bins": 4096, "subgroups": ["sex", "age", "view", "manufacturer", "device"]}
    told = words(tiny, tmp_path / "fine", evaluation=fine)
    assert "4,096 bins for each of 1 target;\nanswers at the thresholds in groups by sex, age, view" in told
    assert "device." in told
    assert "one bin of scores, may be of one patient" in told
    coarse = words(tiny, tmp_path / "coarse", evaluation={"score_bins": 8})
    assert "8 bins for each of 1 target;\nanswers at the thresholds in no groups" in coarse
    task = {"findings": ["opacity"], "unit": "patient"}
    private = {"privacy": {"epsilon": 3.0, "count_noise_epsilon": 0.5}, "training": {"loss": "bce"}, "task": task}
    model = {"norm": "folded", "features": "pooled"}
    noised = words(tiny, tmp_path / "noised", evaluation={"score_bins": 4096}, model=model, **private)
    assert "4,096 bins for each of 1 target." in noised
    assert "answers at the thresholds" not in noised


def test_what_is_trained_is_what_changes(tiny: Any, tmp_path: Path) -> None:
    """Mostly the last layer alone; and an approval for more says from which round on, of those that there are."""
    head = words(tiny, tmp_path / "head", model={"backbone": "resnet50_v1"}, federation={"rounds": 5})
    assert "The last layer of a resnet50_v1, its head, is trained, and no other, on" in head
    steps = {"model": {"unfreeze": [{"round": 3, "from": "layer4"}, {"round": 9, "from": "layer3"}]}}
    more = words(tiny, tmp_path / "more", federation={"rounds": 5}, **steps)
    assert "the head is trained, and from round 3 on its layers from layer4 on, on" in more
    assert "layer3" not in more


def test_the_smallest_numbers_are_words_too(tiny: Any, tmp_path: Path) -> None:
    """One round, a head of 65 numbers, a hospital that withholds nothing: no "1 rounds", "0.0 MB", "fewer than 1"."""
    told = words(tiny, tmp_path, min_cell=1, numbers=65, federation={"rounds": 1}, images={"harmonise": "landmarks"})
    assert "- 1 round; in each, up to 260 bytes come in twice" in told
    assert "up to 260 bytes until the study is purged" in told
    assert "once in the one round" in told
    assert "unless there are none" in told
    assert "Counts leave however small they are" in told
    for wrong in ("1 rounds", "0.0 ", "fewer than 1", "1 times"):
        assert wrong not in told, wrong
