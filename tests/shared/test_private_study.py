"""What [privacy] changes in a study, and what is refused beside it, by name and with a next step."""

import re

import pytest

from shared.declaration import parse
from shared.errors import StudyError
from shared.protocol import StudyProtocol

LEAST = {
    "study": {"name": "Chest films", "intended_use": "Triage."},
    "task": {"findings": ["pneumonia"]},
    "federation": {"rounds": 3},
}


def private(**sections) -> StudyProtocol:
    """Make a private study of the least that is required and of what is given, section by section."""
    data = LEAST | {"privacy": {"epsilon": 3.0}}
    merged = {name: data.get(name, {}) | sections.get(name, {}) for name in {**data, **sections}}
    return parse(merged, StudyProtocol, where="study.toml", error=StudyError)


def test_left_out_keys_get_the_values_that_privacy_goes_well_with():
    """Folded norms, plain cross-entropy and unit features, unless the study says otherwise."""
    study = private()
    assert (study.model.norm, study.training.loss, study.model.features) == ("folded", "bce", "unit")
    other = private(model={"norm": "group", "features": "pooled"}, training={"loss": "focal"})
    assert (other.model.norm, other.training.loss, other.model.features) == ("group", "focal", "pooled")
    plain = parse(LEAST, StudyProtocol, where="study.toml", error=StudyError)
    assert (plain.model.norm, plain.training.loss, plain.model.features) == ("frozen", "focal", "pooled")


def test_a_study_without_privacy_keeps_the_digest_that_it_had():
    """The keys that came with [privacy] are not in it; a private study's digest holds every one."""
    plain = parse(LEAST, StudyProtocol, where="study.toml", error=StudyError)
    assert "privacy" not in plain.canonical()
    assert "features" not in plain.canonical()
    assert private().digest() != plain.digest()
    for key, value in {"epsilon": 4.0, "delta": 1e-6, "clip": 1.0, "accountant": "rdp", "size_rounding": 10}.items():
        assert private(privacy={key: value}).digest() != private().digest()
    assert private(model={"features": "pooled"}).digest() != private().digest()
    assert private(privacy={"centre_rounds": 1}).digest() != private().digest()
    assert "centre_rounds" not in private().canonical()
    assert (private(privacy={"centre_rounds": 1}).centre_rounds, private().centre_rounds, plain.centre_rounds) == (
        1,
        0,
        0,
    )


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"features": "pooled"}},
        {"privacy": {"count_noise_epsilon": 0.0}},
        {"privacy": {"centre_rounds": 1}, "augmentation": {"laterality_invariant": True}, "model": {"mirrored": True}},
    ],
)
def test_a_private_study_written_out_and_read_again_is_the_same(sections):
    """A run folder's protocol.toml is the study, with every default in it."""
    import tomllib

    study = private(**sections)
    assert StudyProtocol.model_validate(tomllib.loads(study.to_toml())).digest() == study.digest()


BREAKS_IT = [
    ({"model": {"norm": "batch"}}, "norm = 'batch'"),
    ({"training": {"sampler": "balanced"}}, "sampler = 'balanced'"),
    ({"training": {"loss": "weighted_bce"}}, "loss = 'weighted_bce'"),
    ({"training": {"precision": "bf16"}}, "precision = 'bf16'"),
    ({"federation": {"strategy": "fedprox"}}, "strategy = 'fedprox'"),
    ({"federation": {"local_norm": True}, "model": {"norm": "group"}}, "local_norm = true"),
    (
        {"federation": {"aggregation": "median", "weighting": "equal", "min_sites": 3}},
        "aggregation = 'median' takes the middle of few noised numbers",
    ),
    (
        {"privacy": {"count_noise_epsilon": 1.0}, "task": {"unit": "patient"}, "evaluation": {"subgroups": ["sex"]}},
        "count_noise_epsilon has no noise for counts of subgroups",
    ),
    ({"evaluation": {"subgroups": ["sex", "device"]}}, "subgroups with 'device' numbers devices by how many images"),
    ({"privacy": {"count_noise_epsilon": 1.0}}, "with [task] unit = 'exam' a patient counts as often"),
    ({"privacy": {"centre_rounds": 2}, "model": {"features": "pooled"}}, "centre_rounds needs [model] features"),
    (
        {"privacy": {"centre_rounds": 2}, "model": {"unfreeze": [{"round": 2, "from": "layer4"}]}},
        "centre_rounds needs a frozen backbone",
    ),
    (
        {"privacy": {"centre_rounds": 2}, "federation": {"strategy": "fedadam"}},
        "centre_rounds needs [federation] strategy",
    ),
    ({"privacy": {"centre_rounds": 3}}, "centre_rounds leaves no round"),
]


@pytest.mark.parametrize(("sections", "names"), BREAKS_IT)
def test_what_breaks_the_guarantee_is_refused_by_name(sections, names):
    """Each refusal names the key and its value, says why, and what to do next."""
    with pytest.raises(StudyError) as caught:
        private(**sections)
    said = str(caught.value)
    assert "Under [privacy]" in said
    assert names in said
    assert re.search(r"(Use|Remove|Set|set) ", said)
    assert said.endswith(".")


def test_all_that_breaks_it_is_told_at_once():
    """Nobody has to correct a study one refusal at a time."""
    with pytest.raises(StudyError) as caught:
        private(model={"norm": "batch"}, training={"sampler": "balanced", "loss": "weighted_bce"})
    assert str(caught.value).count("Under [privacy]") == 3


@pytest.mark.parametrize(
    ("privacy", "key"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 0.5}, "delta"),
        ({"clip": 0.0}, "clip"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"size_rounding": 0}, "size_rounding"),
        ({"count_noise_epsilon": -1.0}, "count_noise_epsilon"),
        ({"accountant": "gdp"}, "accountant"),
        ({"epsilom": 1.0}, "epsilom"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(privacy, key):
    """No study has a budget of nothing, or a promise that is none."""
    with pytest.raises(StudyError, match=rf"\[privacy\] {key}"):
        private(privacy=privacy)


def test_landmarks_are_refused_under_privacy():
    """Their mean is of training patients, and nothing noises it."""
    with pytest.raises(StudyError, match="harmonise = 'landmarks'"):
        private(images={"harmonise": "landmarks"})


def test_privacy_without_a_budget_is_no_study():
    """The epsilon has no default: it is the study's to answer for."""
    with pytest.raises(StudyError, match=r"\[privacy\] epsilon: is required"):
        parse(LEAST | {"privacy": {}}, StudyProtocol, where="study.toml", error=StudyError)


@pytest.mark.parametrize("clip", [1e-30, 9e-7, 1.1e6, 1e30])
def test_a_clip_that_fp32_cannot_square_is_refused(clip):
    """Beside such a clip a small gradient's norm reads 0, and what a patient adds is not clipped."""
    with pytest.raises(StudyError, match=r"\[privacy\] clip"):
        private(privacy={"clip": clip})


def test_what_is_allowed_and_has_a_price_is_warned_of():
    """Unfreezing, pooled features, noised counts and a large epsilon each have a warning; the defaults have none."""
    assert private().privacy_warnings() == []
    assert "unfreeze" in private(model={"unfreeze": [{"round": 2, "from": "layer4"}]}).privacy_warnings()[0]
    assert "pooled" in private(model={"features": "pooled"}).privacy_warnings()[0]
    assert "promises little" in private(privacy={"epsilon": 50.0}).privacy_warnings()[0]
    noised = private(task={"unit": "patient"}, privacy={"count_noise_epsilon": 0.5}).privacy_warnings()[0]
    assert "3 rounds and two at the end cost each of them epsilon = 2.5 in all, a test patient 0.5" in noised
    assert parse(LEAST, StudyProtocol, where="study.toml", error=StudyError).privacy_warnings() == []
