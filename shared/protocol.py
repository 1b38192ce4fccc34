"""StudyProtocol: the frozen, validated form of study.toml and its digest; the only home of study defaults."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shared.contradictions import contradictions
from shared.declaration import Declaration, load_toml, override_key, parse
from shared.errors import StudyError
from shared.plain_text import plain
from shared.private_study import LEAST_CLIP, MOST_CLIP, UNDER_PRIVACY, warnings
from shared.settings_by_kind import with_own_settings

Stage = Literal["stem", "layer1", "layer2", "layer3", "layer4"]
STAGES: tuple[Stage, ...] = ("stem", "layer1", "layer2", "layer3", "layer4")
"""The backbone's stages, first to last; the head comes after them and always trains."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.,:()'/+-]{0,199}$")]


def _as_tuple(value: Any) -> Any:
    """Turn a TOML list into a tuple, so that the value stays frozen and hashable."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
Window = Annotated[Literal["dicom", "percentile"] | tuple[float, float], BeforeValidator(_as_tuple)]


class Study(Declaration):
    """What the study is called, what its model is for, and the seed that all of its randomness is derived from."""

    name: Name
    intended_use: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(plain)]
    version: Name = "1"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Task(Declaration):
    """What is predicted, for what unit, and how the scores of its images become one score."""

    findings: Names = ()
    classes: Names = ()
    unit: Literal["image", "exam", "patient"] = "exam"
    aggregate: Literal["max", "mean"] = "max"

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the model's outputs, in order."""
        return self.findings or self.classes

    @property
    def exclusive(self) -> bool:
        """True for classes (softmax: exactly one is true), False for findings (sigmoids)."""
        return bool(self.classes)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.findings) == bool(self.classes):
            raise ValueError("give exactly one of 'findings' (each present or absent) and 'classes' (one is true).")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("a name stands twice. Every finding or class needs a name of its own.")
        if self.exclusive and len(self.classes) < 2:
            raise ValueError("one class leaves nothing to tell apart. Name two or more, or use 'findings'.")
        return self


class SplitFractions(Declaration):
    """Fractions of patients; a patient's side is a keyed hash (shared/split.py)."""

    train: Fraction = 0.7
    validation: Fraction = 0.15
    test: Fraction = 0.15

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {total:g}. Make them add up to 1.")
        return self


class Images(Declaration):
    """The preprocessing contract's parameters (shared/preprocessing.py)."""

    modality: Annotated[str, Field(pattern=r"^([A-Z]{2,16}|any)$")] = "any"
    size: Annotated[int, Field(ge=32, le=2048)] = 224
    window: Window = "percentile"
    spacing_mm: NotNegative = 0.0
    fit: Literal["pad", "crop"] = "pad"
    frames: Literal["first", "middle", "all"] = "first"
    depth: Literal["uint8", "uint16"] = "uint8"
    channels: Literal[1, 3] = 3
    harmonise: Literal["none", "landmarks"] = "none"
    objects: Literal["anatomy", "all"] = "anatomy"

    @model_validator(mode="after")
    def _window_has_width(self) -> Self:
        if isinstance(self.window, tuple) and self.window[1] < 1:
            raise ValueError("a window's width is at least 1 (DICOM PS3.3 C.11.2.1.2). Give [centre, width].")
        if self.harmonise == "landmarks" and self.window != "percentile":
            raise ValueError("harmonise = 'landmarks' begins with each image's own percentiles: window = 'percentile'.")
        return self


class AugmentationSettings(Declaration):
    """Ranges of the training-only augmentation (shared/augmentation.py); 0 switches one off."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    translate: Fraction = 0.05
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.05
    elastic: Annotated[float, Field(ge=0, le=0.12)] = 0.0
    brightness: Fraction = 0.1
    contrast: Fraction = 0.1
    gamma: Fraction = 0.0
    noise: Fraction = 0.0
    blur: NotNegative = 0.0
    laterality_invariant: bool = False

    @property
    def is_off(self) -> bool:
        """True when an augmented image is the image itself."""
        return not any(self.model_dump().values())


class Unfreeze(Declaration):
    """From `round` on, the stage `from` and all after it train."""

    round: Annotated[int, Field(ge=1)]
    start: Stage = Field(alias="from")


class Model(Declaration):
    """Backbone, where its weights come from, its normalisation layers, and which stages train when."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet50_v1"] = "resnet18"
    weights: Annotated[str, Field(pattern=r"^(imagenet|file|none|sha256:[0-9a-f]{64})$")] = "imagenet"
    weights_fallback: Literal["none"] | None = None
    norm: Literal["batch", "frozen", "folded", "group"] = "frozen"
    features: Literal["pooled", "unit"] = "pooled"
    mirrored: bool = False
    zoomed: bool = False
    unfreeze: Annotated[tuple[Unfreeze, ...], BeforeValidator(_as_tuple)] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def trains_from(self, round_number: int) -> str:
        """Name the earliest stage that trains in this round; 'head' while the whole backbone is frozen."""
        reached = [step.start for step in self.unfreeze if step.round <= round_number]
        return reached[-1] if reached else "head"

    @model_validator(mode="after")
    def _gradual(self) -> Self:
        steps = [(step.round, -STAGES.index(step.start)) for step in self.unfreeze]
        if any(later[0] <= step[0] or later[1] <= step[1] for step, later in itertools.pairwise(steps)):
            raise ValueError("each entry of 'unfreeze' needs a later round and an earlier stage than the one before.")
        return self


class Training(Declaration):
    """What each site does within one round."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr_head: Positive = 1e-3
    lr_backbone: Positive = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    loss: Literal["focal", "bce", "weighted_bce"] = "focal"
    gamma: NotNegative = 2.0
    alpha: Fraction = 0.5
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    precision: Literal["fp32", "bf16"] = "fp32"
    feature_views: Annotated[int, Field(ge=0, le=64)] = 0


class Privacy(Declaration):
    """Differential privacy of the training patients, at every site: what the whole study may cost one of them.

    Adjacency: all images of one patient are there, or not. `clip` bounds what a patient adds to a step's gradient
    (L2 norm). `size_rounding`: each site's size counts as public, rounded to a multiple of this.
    `count_noise_epsilon`: what one release of evidence may cost a validation or test patient; 0 leaves these counts
    to disclosure control. `centre_rounds`: so many of the study's first rounds estimate the mean of the unit features,
    which the head then sees subtracted; they are clipped, noised and paid for like all others.
    """

    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5
    clip: Annotated[float, Field(ge=LEAST_CLIP, le=MOST_CLIP)] = 0.3
    accountant: Literal["prv", "rdp"] = "prv"
    images_per_patient: Annotated[int, Field(ge=1, le=64)] = 1
    size_rounding: Annotated[int, Field(ge=1, le=10_000)] = 50
    count_noise_epsilon: NotNegative = 0.0
    centre_rounds: Annotated[int, Field(ge=0, le=1000)] = 0


STRATEGY_SETTINGS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.01},
    "fedavgm": {"server_lr": 1.0, "server_momentum": 0.9},
    "fedadam": {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99},
    "fedyogi": {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.99},
}
"""Each strategy's own settings and their defaults: Li et al. 2020 (FedProx), Hsu et al. 2019 (FedAvgM),
Reddi et al. 2021 (FedAdam, FedYogi: beta1 .9, beta2 .99)."""

AGGREGATION_SETTINGS: dict[str, dict[str, float]] = {"mean": {}, "median": {}, "trimmed_mean": {"trim": 0.2}}
"""Each way to combine updates, and its own settings with their defaults (Yin et al. 2018: trim is their beta)."""


class Federation(Declaration):
    """How the sites' updates become the next model."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    strategy: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_lr: Positive | None = None
    server_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    proximal_mu: NotNegative | None = None
    min_sites: Annotated[int, Field(ge=1)] = 2
    weighting: Literal["patients", "equal"] = "patients"
    weight_cap: Annotated[float, Field(gt=0, le=1)] = 0.8
    aggregation: Literal["mean", "median", "trimmed_mean"] = "mean"
    trim: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    norm_multiple: NotNegative = 1.0
    norm_bound: NotNegative = 0.0
    wire: Literal["fp32", "fp16"] = "fp32"
    local_norm: bool = False
    select: Literal["last", "best_validation"] = "last"

    @model_validator(mode="before")
    @classmethod
    def _own_settings_only(cls, data: Any) -> Any:
        """Fill in the own settings of the strategy and of the aggregation, and refuse another one's."""
        return with_own_settings(data, strategy=STRATEGY_SETTINGS, aggregation=AGGREGATION_SETTINGS)


Axis = Literal["sex", "age", "view", "manufacturer", "device"]
"""By what a study may divide its patients (`shared/subgroups.py`)."""

OwnSetting = Literal["threshold", "calibration"]
"""What a site may have of its own beside what is shared (shared/own_settings.py)."""

SUBGROUPS: tuple[Axis, ...] = get_args(Axis)


class Evaluation(Declaration):
    """The wish for the operating point, and how its evidence is counted and shown."""

    target_sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.95
    claim: Literal["point", "lower_bound"] = "point"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min_positives_to_rank: Annotated[int, Field(ge=1)] = 30
    score_bins: Annotated[int, Field(ge=8, le=4096)] = 64
    subgroups: Names = ()
    own_settings: Annotated[tuple[OwnSetting, ...], BeforeValidator(_as_tuple)] = ()

    @model_validator(mode="after")
    def _known_subgroups(self) -> Self:
        if unknown := sorted(set(self.subgroups) - set(SUBGROUPS)):
            raise ValueError(f"'subgroups' has no '{unknown[0]}'. Known: {', '.join(SUBGROUPS)}.")
        return self


_LATER: dict[str, tuple[str, ...]] = {
    "model": ("features", "mirrored", "zoomed"),
    "images": ("harmonise", "objects"),
    "privacy": ("centre_rounds",),
    "evaluation": ("own_settings",),
    "federation": ("norm_multiple", "aggregation", "trim"),
}
"""Keys that came after others; the default of each says what was so before it, or what was meant to be so."""


class StudyProtocol(Declaration):
    """A study: a declaration, not code. Equal declarations have equal digests."""

    study: Study
    task: Task
    split: SplitFractions = SplitFractions()
    images: Images = Images()
    augmentation: AugmentationSettings = AugmentationSettings()
    model: Model = Model()
    training: Training = Training()
    privacy: Privacy | None = None
    federation: Federation
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _defaults_under_privacy(cls, data: Any) -> Any:
        """Where [privacy] is asked for and a key is left out, fill in the value that goes well with it."""
        if not isinstance(data, dict) or data.get("privacy") is None:
            return data
        sections = {name: data.get(name, {}) for name in UNDER_PRIVACY}
        return data | {
            name: {**UNDER_PRIVACY[name], **given} for name, given in sections.items() if isinstance(given, dict)
        }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for contradiction in contradictions(self._settings(), trains_on_plain_images=self.trains_on_plain_images):
            raise ValueError(contradiction)
        return self

    def _settings(self) -> dict[str, Any]:
        """Give every key's value as `section.key`, for rules that look across sections."""
        return {f"{name}.{key}": value for name, section in self if section is not None for key, value in section}

    @property
    def trains_on_plain_images(self) -> bool:
        """True when augmentation changes nothing that training sees; mirroring is nothing to a mirrored model."""
        on = {key for key, value in self.augmentation.model_dump().items() if value}
        return not on - ({"laterality_invariant"} if self.model.mirrored else set())

    @property
    def centre_rounds(self) -> int:
        """How many of the first rounds estimate the features' centre; 0 without [privacy]."""
        return self.privacy.centre_rounds if self.privacy else 0

    def privacy_warnings(self) -> list[str]:
        """Say what a private study pays for some of its choices; nothing without [privacy]."""
        return warnings(self._settings()) if self.privacy else []

    def canonical(self) -> str:
        """Write the study as canonical JSON: every key with its value, sorted.

        Keys that came later are left out where they say what was so before them: these studies keep their digests.
        """
        declared = self.model_dump(mode="json", by_alias=True)
        if self.privacy is None:
            del declared["privacy"]
        for section, key in ((section, key) for section, keys in _LATER.items() for key in keys):
            part = getattr(self, section)
            if part is not None and getattr(part, key) == type(part).model_fields[key].default:
                del declared[section][key]
        return json.dumps(declared, sort_keys=True, separators=(",", ":"))

    def to_toml(self) -> str:
        """Write the study with every default and override, its digest in the first line; read again, it is equal."""
        other_kind = {"task": {"findings" if self.task.exclusive else "classes"}}
        declared = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=other_kind)
        return f"# Written by polyclinic: the study as it was run. Digest {self.digest()}\n\n{tomli_w.dumps(declared)}"

    def digest(self) -> str:
        """SHA-256 of the canonical form: what a site approves, and what every task names."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def random_seed(self, *purpose: object) -> int:
        """Derive a 63-bit seed for one named purpose, e.g. ("train", site, round): the only source of randomness."""
        words = "\x1f".join(str(word) for word in (self.study.seed, *purpose))
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def read_protocol(path: Path, *, overrides: Sequence[str] = ()) -> StudyProtocol:
    """Read study.toml and apply `section.key=value` overrides (values as TOML, a bare word as a string).

    Raises:
        StudyError: every fault in the file or in an override, with section, key and the nearest known key.
    """
    data = load_toml(path, error=StudyError)
    for override in overrides:
        override_key(data, override, error=StudyError)
    return parse(data, StudyProtocol, where=path.name, error=StudyError)
