"""One private round of local training: the plan's steps, constants and draws, and nothing that tells of the batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from client.dp_engine import Patients
from client.noise import SecretStreams
from client.private_trainer import train_privately
from client.trainer import Outcome
from shared.errors import StudyError, TaskError
from shared.messages import Refusal
from shared.model import exchanged, unit
from shared.privacy import PrivacyPlan
from shared.row_gradient import build_row_gradient

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {"head": (512,), "layer4": (256, 2, 2), "stem": (3, 32, 32)}

BCE = build_row_gradient("bce", exclusive=False, gamma=0.0, alpha=0.5)

CLIP, RATE, PUBLIC = 0.5, 0.25, 10

Round = Callable[..., tuple[Outcome, dict[str, torch.Tensor]]]


class FixedInputs:
    """Gives each row a fixed input of noise; some rows are broken."""

    def __init__(self, rows: int, *, start: str, broken: tuple[int, ...] = ()) -> None:
        self.inputs = torch.randn(rows, *SHAPES[start], generator=torch.Generator().manual_seed(rows))
        self.inputs[list(broken)] = float("nan")
        self.batches: list[int] = []

    def training(self, rows: Any, *, start: str, generator: torch.Generator) -> torch.Tensor:
        self.batches.append(len(rows))
        return self.inputs[torch.from_numpy(rows)]


@pytest.fixture(scope="module")
def train(tiny: Any) -> Round:
    """Give `train(...)`: one private round of a fresh model; it returns the outcome and the arrays that train."""
    benches: dict[str, tuple[Any, Any]] = {}

    def run(
        *,
        start: str = "head",
        norm: str = "folded",
        training: dict[str, Any] | None = None,
        patients: int = 12,
        inputs: FixedInputs | None = None,
        task_id: str = "t",
        centre_steps: int = 0,
        **other: Any,
    ) -> tuple[Outcome, dict[str, torch.Tensor]]:
        kind = f"{norm} {bool(centre_steps)}"
        if kind not in benches:
            centred = tiny.private_protocol(epsilon=1.0, centre_rounds=1)
            bench = tiny.bench(centred if centre_steps else tiny.protocol(model={"norm": norm}))
            benches[kind] = bench, {k: v.clone() for k, v in bench.classifier.state_dict().items()}
        bench, state = benches[kind]
        bench.classifier.load_state_dict(state)
        rows = np.arange(2 * patients)
        plan = {
            "sample_rate": RATE,
            "noise_multiplier": 1.0,
            "steps_per_round": 3,
            "rounds": 1,
            "delta": 1e-5,
            "clip": CLIP,
            "images_per_patient": 1,
            "expected_patients": PUBLIC,
        }
        outcome = train_privately(
            bench,
            inputs or FixedInputs(len(rows), start=start),
            plan=PrivacyPlan(**(plan | other)),
            patients=Patients.of(rows, rows // 2),
            labels_NK=(rows % 2).astype(np.float32)[:, None],
            start=start,
            training=tiny.protocol(
                training={"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr_head": 0.5, "loss": "bce"}
                | (training or {})
            ).training,
            gradient=BCE,
            streams=(streams := SecretStreams(key=bytes(32), task_id=task_id, arrays_digest="d")),
            noise=streams.over("these patients"),
            centre_steps=centre_steps,
        )
        names = exchanged(bench.classifier, start, local_norm=False)
        return outcome, {k: v.clone() for k, v in bench.classifier.state_dict().items() if k in names}

    return run


def moved(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> torch.Tensor:
    """Give what training changed, flat and in fp64."""
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in before])


def test_a_step_is_lr_times_the_released_gradient(train: Round) -> None:
    """With SGD, one patient moves the weights by lr × clip / (clip × rate × public size) and no more."""
    one_step = {"steps_per_round": 1, "noise_multiplier": 0.0, "sample_rate": 1.0, "clip": 1e-3}
    _, before = train(**one_step, training={"lr_head": 1e-30})
    _, after = train(**one_step, patients=1)
    assert float(moved(after, before).norm()) == pytest.approx(0.5 / PUBLIC, rel=1e-3)


def test_an_empty_step_still_moves_by_noise(train: Round) -> None:
    """Nobody takes part in any step: the weights move by noise of the plan's scale all the same."""
    inputs = FixedInputs(24, start="head")
    rate = 1e-9
    _, before = train(training={"lr_head": 1e-30})
    _, after = train(inputs=inputs, sample_rate=rate, training={"lr_head": 0.5 * rate})
    assert inputs.batches == []
    assert float(moved(after, before).std()) == pytest.approx(0.5 / PUBLIC * 3**0.5, rel=0.1)


def test_what_is_told_is_the_plans(train: Round) -> None:
    """No loss, and the number of images that the plan expects: the same whoever took part."""
    outcome, _ = train()
    assert outcome.loss_by_epoch == ()
    assert outcome.images == round(3 * RATE * PUBLIC) == train(patients=3)[0].images
    assert outcome.seconds > 0


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_same_request_gives_the_same_bits(train: Round, optimiser: str) -> None:
    """A round that is run again ends the same; another task's ends elsewhere."""
    settings = {"training": {"optimiser": optimiser}}
    (_, first), (_, again), (_, other) = train(**settings), train(**settings), train(**settings, task_id="u")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize("norm", ["folded", "frozen", "group"])
@pytest.mark.parametrize("start", ["layer4", "stem"])
def test_unfrozen_stages_train_in_each_norm_mode(train: Round, norm: str, start: str) -> None:
    """Every array that travels is moved, by what was learnt or by noise; biases and norm layers too."""
    settings = {"norm": norm, "start": start, "patients": 4, "steps_per_round": 1, "images_per_patient": 2}
    _, before = train(**settings, training={"lr_head": 1e-30, "lr_backbone": 1e-30})
    _, after = train(**settings)
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_a_broken_image_spoils_nothing(train: Round) -> None:
    """Patients whose images are not numbers add nothing: the round is as if they had none of the coins."""
    broken = FixedInputs(24, start="head", broken=(4, 5))
    _, after = train(inputs=broken, sample_rate=1.0)
    assert all(weights.isfinite().all() for weights in after.values())


def test_norm_batch_is_refused(train: Round) -> None:
    """A model that normalises by batches is not trained privately, whoever asks."""
    with pytest.raises(StudyError, match="norm = 'batch'"):
        train(norm="batch", start="layer4")


@pytest.mark.parametrize(("key", "value"), [("sampler", "balanced"), ("loss", "weighted_bce")])
def test_what_breaks_the_guarantee_is_refused(train: Round, key: str, value: str) -> None:
    """Balancing and weights from labels are refused by name."""
    with pytest.raises(StudyError, match=value):
        train(training={key: value})


def test_weights_that_are_not_finite_do_not_leave(train: Round) -> None:
    """A learning rate at which the weights overflow ends the round with a fixed code."""
    with pytest.raises(TaskError) as fault:
        train(training={"lr_head": 1e38, "weight_decay": 1.0})
    assert fault.value.code == Refusal.DIVERGED


@pytest.mark.parametrize("clip", [0.3, 100.0])
def test_the_rounds_for_the_centre_end_at_the_mean_of_the_unit_features(train: Round, clip: float) -> None:
    """Without noise, whether or not features are longer than the clip; the head stays as it was."""
    inputs = FixedInputs(24, start="head")
    settings = {"noise_multiplier": 0.0, "sample_rate": 1.0, "images_per_patient": 2, "expected_patients": 12}
    _, after = train(inputs=inputs, centre_steps=3, clip=clip, **settings)
    mean = unit(inputs.inputs).mean(0)
    # Of a patient with two films, the mean of both is clipped: all are then of one length, which is less than √D.
    both = unit(inputs.inputs).view(12, 2, -1).mean(1)
    expected = mean if clip > 1 else 512**0.5 * torch.nn.functional.normalize(both, dim=1).mean(0)
    torch.testing.assert_close(after["centre.weight"][0], expected, rtol=1e-3, atol=1e-4)
    _, unmoved = train(start="head", centre_steps=3, clip=clip, sample_rate=1e-9, noise_multiplier=0.0)
    assert not unmoved["centre.weight"].any()
    assert all(torch.equal(after[name], unmoved[name]) for name in ("fc.weight", "fc.bias"))


def test_one_patient_moves_the_centre_by_the_clip_and_no_more(train: Round) -> None:
    """The sum of a step changes by one clip at most: by lr / public size here, however long the features are."""
    settings = {"noise_multiplier": 0.0, "sample_rate": 1.0, "steps_per_round": 1, "clip": 1e-3}
    _, after = train(centre_steps=1, patients=1, **settings)
    assert float(after["centre.weight"].norm()) == pytest.approx(512**0.5 / PUBLIC, rel=1e-3)


def test_the_centre_has_noise_of_the_plans_scale_in_every_coordinate(train: Round) -> None:
    """Where nobody takes part it moves all the same: by σ × lr / (rate × public size) a step."""
    rate = 1e-9
    _, after = train(centre_steps=3, sample_rate=rate)
    moved_by = after["centre.weight"].double() * rate
    assert float(moved_by.std()) == pytest.approx(512**0.5 / 3 / PUBLIC * 3**0.5, rel=0.1)
