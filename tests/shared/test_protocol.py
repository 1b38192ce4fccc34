"""Tests of shared/protocol.py: what a study may say, and the digest that stands for it."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import StudyError
from shared.protocol import STRATEGY_SETTINGS, StudyProtocol, read_protocol

LEAST = {
    "study": {"name": "Chest films", "intended_use": "Triage."},
    "task": {"findings": ["pneumonia"]},
    "federation": {"rounds": 3},
}


def study(**sections) -> StudyProtocol:
    """Make a study of the least that is required and of what is given, section by section."""
    return StudyProtocol.model_validate(
        {name: LEAST.get(name, {}) | sections.get(name, {}) for name in {**LEAST, **sections}}
    )


def written(folder: Path, **sections) -> Path:
    """Write a study.toml, as `study` would make it."""
    content = {name: LEAST.get(name, {}) | sections.get(name, {}) for name in {**LEAST, **sections}}
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


def refusal(folder: Path, **sections) -> str:
    """Read a study that is wrong, and give the message."""
    with pytest.raises(StudyError) as caught:
        read_protocol(written(folder, **sections))
    return str(caught.value)


def test_what_is_not_said_has_the_documented_default():
    """A study of seven lines is whole."""
    protocol = study()
    assert protocol.task.unit == "exam"
    assert protocol.images.size == 224
    assert protocol.model.norm == "frozen"
    assert protocol.training.loss == "focal"
    assert (protocol.training.gamma, protocol.training.alpha) == (2, 0.5)
    assert protocol.evaluation.target_sensitivity == 0.95
    assert protocol.federation.strategy == "fedavg"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"evaluation": {"subgroups": ["sex", "name"]}}, "'subgroups' has no 'name'. Known: sex, age"),
        ({"training": {"lr_hed": 0.1}}, "Did you mean 'lr_head'?"),
        ({"task": {"findings": ["a"], "classes": ["a", "b"]}}, "exactly one of 'findings'"),
        ({"task": {"findings": []}}, "exactly one of 'findings'"),
        ({"task": {"findings": ["a", "a"]}}, "stands twice"),
        ({"task": {"findings": [], "classes": ["a"]}}, "one class leaves nothing to tell apart"),
        ({"task": {"findings": ["a|b"]}}, r"\[task\] findings.0"),
        ({"study": {"name": "a\nb"}}, r"\[study\] name"),
        ({"split": {"train": 0.9}}, "add up to 1.2"),
        ({"images": {"window": [40, 0.5]}}, "a window's width is at least 1"),
        ({"images": {"channels": 2}}, r"\[images\] channels: Input should be 1 or 3"),
        ({"model": {"weights": "resnet18.pth"}}, r"\[model\] weights"),
        ({"model": {"weights": "sha256:abc"}}, r"\[model\] weights"),
        ({"model": {"unfreeze": [{"round": 2, "from": "head"}]}}, r"unfreeze.0.from: Input should be 'stem'"),
        ({"federation": {"strategy": "fedprx"}}, r"\[federation\] strategy: Input should be 'fedavg'"),
        ({"federation": {"strategy": ["fedavg"]}}, r"\[federation\] strategy"),
        ({"federation": {"strategy": "fedadam", "proximal_mu": 0.1}}, "strategy 'fedadam' has no proximal_mu"),
        ({"federation": {"server_lr": 0.1, "beta1": 0.1}}, "strategy 'fedavg' has no beta1, server_lr"),
        ({"federation": {"trim": 0.1}}, "aggregation 'mean' has no trim"),
        ({"federation": {"aggregation": "trimmed_mean", "trim": 0.5}}, r"\[federation\] trim: Input should be less"),
        (
            {"federation": {"aggregation": "median", "min_sites": 3}},
            "counts each site once, and weighting = 'patients'",
        ),
        ({"federation": {"aggregation": "median", "weighting": "equal"}}, "Set min_sites to 3 or more"),
        ({"training": {"loss": "weighted_bce"}, "task": {"findings": [], "classes": ["a", "b"]}}, "is for findings"),
        ({"federation": {"local_norm": True}, "model": {"norm": "folded"}}, "norm = 'folded' has none"),
        (
            {"training": {"feature_views": 2}, "model": {"unfreeze": [{"round": 1, "from": "stem"}]}},
            "needs a frozen backbone",
        ),
        (
            {
                "training": {"feature_views": 2},
                "augmentation": dict.fromkeys(
                    ["rotation_degrees", "translate", "scale", "brightness", "contrast"], 0.0
                ),
            },
            "are augmented views",
        ),
        ({"model": {"mirrored": True}}, "laterality_invariant = true; else set mirrored to false"),
        (
            {
                "model": {"mirrored": True, "unfreeze": [{"round": 1, "from": "layer4"}]},
                "augmentation": {"laterality_invariant": True},
            },
            "mirrored averages what a frozen backbone gives",
        ),
        ({"model": {"zoomed": True, "unfreeze": [{"round": 1, "from": "layer4"}]}}, "zoomed averages what a frozen"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, sections, says):
    """A study that contradicts itself, or asks for what is not built, is never trained in silence."""
    with pytest.raises(StudyError, match=says):
        read_protocol(written(tmp_path, **sections))


def test_every_required_key_is_asked_for(tmp_path):
    """An empty file says all that is missing."""
    (tmp_path / "study.toml").write_text("")
    with pytest.raises(StudyError) as caught:
        read_protocol(tmp_path / "study.toml")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "study.toml [study]",
        "study.toml [task]",
        "study.toml [federation]",
    ]


@pytest.mark.parametrize(
    "steps",
    [
        [(2, "layer3"), (1, "layer2")],
        [(1, "layer3"), (1, "layer2")],
        [(1, "layer3"), (2, "layer4")],
        [(1, "layer3"), (2, "layer3")],
    ],
)
def test_unfreezing_goes_one_way(tmp_path, steps):
    """Each step comes in a later round and reaches an earlier stage; all else is refused."""
    unfreeze = [{"round": number, "from": stage} for number, stage in steps]
    assert "later round and an earlier stage" in refusal(tmp_path, model={"unfreeze": unfreeze})


def test_a_stage_trains_from_its_round_on():
    """Before the first step only the head trains; without any step, always."""
    model = study(model={"unfreeze": [{"round": 2, "from": "layer4"}, {"round": 4, "from": "stem"}]}).model
    assert [model.trains_from(number) for number in range(1, 6)] == ["head", "layer4", "layer4", "stem", "stem"]
    assert study().model.trains_from(99) == "head"


def test_findings_and_classes_are_told_apart():
    """Findings are present or absent each for itself, classes exclude one another."""
    assert (study().task.targets, study().task.exclusive) == (("pneumonia",), False)
    classes = study(task={"findings": [], "classes": ["a", "b"]}).task
    assert (classes.targets, classes.exclusive) == (("a", "b"), True)


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_a_strategy_has_its_own_settings_and_no_other(strategy):
    """What a strategy needs has a value, and what it does not have is absent."""
    federation = study(federation={"strategy": strategy}).federation
    known = {key for settings in STRATEGY_SETTINGS.values() for key in settings}
    assert {key: getattr(federation, key) for key in known if getattr(federation, key) is not None} == (
        STRATEGY_SETTINGS[strategy]
    )
    for key in STRATEGY_SETTINGS[strategy]:
        changed = study(federation={"strategy": strategy, key: 0.5}).federation
        assert getattr(changed, key) == 0.5


def test_a_trimmed_mean_has_its_own_setting_and_the_others_have_none():
    """Updates are combined by their mean unless a study says otherwise, and studies from before keep their digest."""
    among_equals = {"weighting": "equal", "min_sites": 3}
    assert study(federation={"aggregation": "trimmed_mean", **among_equals}).federation.trim == 0.2
    assert study(federation={"aggregation": "median", **among_equals}).federation.trim is None
    plain = study()
    assert (plain.federation.aggregation, plain.federation.norm_multiple) == ("mean", 1)
    assert "aggregation" not in plain.canonical()
    for changed in ({"norm_multiple": 0.0}, {"aggregation": "median"}, {"aggregation": "trimmed_mean", "trim": 0.3}):
        other = study(federation={**changed, **among_equals})
        assert other.digest() != study(federation=among_equals).digest()
        assert StudyProtocol.model_validate(tomllib.loads(other.to_toml())) == other


def test_augmentation_is_off_when_nothing_moves():
    """The default augments; all zeros do not, and a flip alone does."""
    off = dict.fromkeys(["rotation_degrees", "translate", "scale", "brightness", "contrast"], 0.0)
    assert not study().augmentation.is_off
    assert study(augmentation=off).augmentation.is_off
    flips = off | {"laterality_invariant": True}
    assert not study(augmentation=flips).augmentation.is_off
    assert not study(augmentation=flips).trains_on_plain_images
    mirrored = study(augmentation=flips, model={"mirrored": True})
    assert mirrored.trains_on_plain_images, "to a mirrored model a mirror image is the same image"
    assert not study(augmentation=flips | {"noise": 0.1}, model={"mirrored": True}).trains_on_plain_images


def test_a_study_that_mirrors_has_another_digest():
    """What the head sees is part of what a site approves; a study that leaves it out keeps the digest that it had."""
    invariant = {"augmentation": {"laterality_invariant": True}}
    assert study(**invariant, model={"mirrored": True}).digest() != study(**invariant).digest()
    assert study(**invariant, model={"zoomed": True}).digest() != study(**invariant).digest()
    assert not {"mirrored", "zoomed"} & set(re.findall(r"\w+", study(**invariant).canonical()))


def test_equal_studies_have_equal_digests_however_they_are_written(tmp_path):
    """Order, whole numbers and defaults that are written out change nothing."""
    one = read_protocol(written(tmp_path, training={"lr_head": 1.0, "gamma": 2.0}, images={"window": [40.0, 400.0]}))
    (tmp_path / "study.toml").write_text(
        """
        federation.rounds = 3
        images.window = [40, 400]
        images.size = 224
        training.gamma = 2
        training.lr_head = 1
        task.findings = ["pneumonia"]
        study.intended_use = "Triage."
        study.name = "Chest films"
        """
    )
    other = read_protocol(tmp_path / "study.toml")
    assert one == other
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "sections",
    [
        {"study": {"seed": 1}},
        {"study": {"intended_use": "Triage!"}},
        {"images": {"fit": "crop"}},
        {"split": {"train": 0.6, "validation": 0.25}},
        {"training": {"lr_head": 0.0011}},
        {"evaluation": {"claim": "lower_bound"}},
        {"model": {"weights_fallback": "none"}},
    ],
)
def test_whatever_a_study_says_is_in_its_digest(sections):
    """A site that approved one study has not approved another."""
    assert study(**sections).digest() != study().digest()


def test_a_study_that_does_not_harmonise_keeps_its_digest():
    """The key came later: where it says "none" it is not part of the canonical form, else it is."""
    assert "harmonise" not in study().canonical()
    assert study(images={"harmonise": "none"}).digest() == study().digest()
    assert study(images={"harmonise": "landmarks"}).digest() != study().digest()


@pytest.mark.parametrize("window", ["dicom", [50, 400]])
def test_landmarks_begin_with_each_images_own_percentiles(window):
    """Another window has other ends of the scale, and is refused beside landmarks."""
    with pytest.raises(ValidationError, match="window = 'percentile'"):
        study(images={"harmonise": "landmarks", "window": window})


def test_own_calibration_is_for_findings():
    """Scores of classes add up to 1, and would not after each was moved by itself; own thresholds are for both."""
    classes = {"findings": (), "classes": ("a", "b")}
    assert study(task=classes, evaluation={"own_settings": ["threshold"]}).evaluation.own_settings == ("threshold",)
    assert study(evaluation={"own_settings": []}).digest() == study().digest()
    with pytest.raises(ValidationError, match="is for findings"):
        study(task=classes, evaluation={"own_settings": ["calibration"]})


def test_the_digest_is_sha256_of_canonical_json():
    """Anyone can compute it: keys sorted, nothing between them, all defaults written out."""
    protocol = study()
    assert protocol.canonical().startswith('{"augmentation":{"blur":0.0,"brightness":0.1,')
    assert protocol.canonical().encode().isascii()
    assert protocol.digest() == hashlib.sha256(protocol.canonical().encode()).hexdigest()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"task": {"findings": [], "classes": ["a", "b"]}},
        {"model": {"unfreeze": [{"round": 2, "from": "layer4"}], "weights_fallback": "none"}},
        {"images": {"window": [40.0, 400.0]}, "federation": {"strategy": "fedyogi"}},
    ],
)
def test_a_study_written_out_and_read_again_is_the_same(sections):
    """A run folder's protocol.toml is the study, with every default in it."""
    protocol = study(**sections)
    again = StudyProtocol.model_validate(tomllib.loads(protocol.to_toml()))
    assert again.digest() == protocol.digest()


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("federation.rounds=7", ("federation", "rounds"), 7),
        ("training.lr_head = 0.5", ("training", "lr_head"), 0.5),
        ("federation.strategy=fedprox", ("federation", "strategy"), "fedprox"),
        ("study.name=Chest films, again", ("study", "name"), "Chest films, again"),
        ('images.window="dicom"', ("images", "window"), "dicom"),
        ("images.window=[40, 400]", ("images", "window"), (40.0, 400.0)),
    ],
)
def test_an_override_is_as_if_the_file_said_so(tmp_path, override, place, value):
    """A section that the file leaves out may be set too, and the digest changes with it."""
    protocol = read_protocol(written(tmp_path), overrides=[override])
    section, key = place
    assert getattr(getattr(protocol, section), key) == value
    assert protocol.digest() != study().digest()


def test_the_last_override_of_a_key_holds(tmp_path):
    """Overrides are applied in order."""
    protocol = read_protocol(written(tmp_path), overrides=["federation.rounds=5", "federation.rounds=6"])
    assert protocol.federation.rounds == 6


@pytest.mark.parametrize("override", ["rounds=5", "federation.rounds", "federation.rounds=", "=5", ".rounds=5", ""])
def test_an_override_of_another_form_is_refused(tmp_path, override):
    """The message shows the form that is needed."""
    with pytest.raises(StudyError, match=r"not of the form section\.key=value"):
        read_protocol(written(tmp_path), overrides=[override])


def test_an_override_is_checked_like_the_file(tmp_path):
    """A misspelt key is named, and a section that is no section is too."""
    with pytest.raises(StudyError, match="Did you mean 'rounds'"):
        read_protocol(written(tmp_path), overrides=["federation.round=5"])
    (tmp_path / "flat.toml").write_text("study = 1\n")
    with pytest.raises(StudyError, match=r"\[study\] is not a section"):
        read_protocol(tmp_path / "flat.toml", overrides=["study.name=x"])


words = st.one_of(st.text(max_size=6), st.integers(0, 9))


@given(st.lists(words, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=3))
def test_each_purpose_has_a_seed_of_its_own(one, other):
    """Seeds fit a 63-bit generator, repeat for the same purpose, and differ for another."""
    seed = study().random_seed(*one)
    assert 0 <= seed < 2**63
    assert seed == study().random_seed(*one)
    if list(map(str, one)) != list(map(str, other)) and not any("\x1f" in str(word) for word in one + other):
        assert seed != study().random_seed(*other)
    assert seed != study(study={"seed": 1}).random_seed(*one)
