"""The streaming mean, the share cap and the server optimisers, each against the formula written out."""

import numpy as np
import pytest

from server.aggregation import ADAPTIVITY, ServerOptimiser, StreamingMean, capped_shares

RNG = np.random.default_rng(20261121)


def arrays(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"layer{i}": RNG.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def test_shares_are_proportional_below_the_cap() -> None:
    """Where no site is too large, a share is the site's weight over all weights."""
    assert capped_shares({"a": 30, "b": 50, "c": 20}, cap=0.8) == pytest.approx({"a": 0.3, "b": 0.5, "c": 0.2})


def test_a_large_site_is_capped_and_the_others_keep_their_proportions() -> None:
    """What the large site gives up goes to the others in proportion to their weights."""
    shares = capped_shares({"a": 970, "b": 20, "c": 10}, cap=0.8)
    assert shares == pytest.approx({"a": 0.8, "b": 0.4 / 3, "c": 0.2 / 3})


def test_a_second_site_that_grows_over_the_cap_is_capped_too() -> None:
    """Capping one site can lift another over the cap; then both stand at it."""
    assert capped_shares({"a": 60, "b": 39, "c": 1}, cap=0.4) == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})


def test_a_cap_that_cannot_hold_means_equal_shares() -> None:
    """Two sites cannot both stay below 40 %: they get a half each, and one alone gets all."""
    assert capped_shares({"a": 9, "b": 1}, cap=0.4) == pytest.approx({"a": 0.5, "b": 0.5})
    assert capped_shares({"a": 9}, cap=0.4) == pytest.approx({"a": 1.0})


def test_mean_equals_numpy_average() -> None:
    """The streaming mean is the weighted average, over arrays longer than a block and over scalars."""
    updates = [arrays((300, 300), (7,), ()) for _ in range(3)]
    mean = StreamingMean(updates[0])
    for update, share in zip(updates, (0.5, 0.3, 0.2), strict=True):
        mean.add(update, share=share)
    for name, value in mean.finish(cap=0.8).items():
        expected = np.average([u[name].astype(np.float64) for u in updates], axis=0, weights=(0.5, 0.3, 0.2))
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_sum_rounds_product_and_sum_as_numpy_does() -> None:
    """Each product is rounded before it is added, on every processor: a fused multiply-add gives other bits."""
    updates = [arrays((70_003,), (3, 5, 7), ()) for _ in range(3)]
    shares = (0.3, 0.123, 0.577)
    mean = StreamingMean(updates[0])
    for update, share in zip(updates, shares, strict=True):
        mean.add(update, share=share)
    summed = mean.finish(cap=1.0)
    for name, value in summed.items():
        products = [update[name] * np.float32(share) for update, share in zip(updates, shares, strict=True)]
        np.testing.assert_array_equal(value, products[0] + products[1] + products[2], strict=True)


def test_half_precision_updates_are_summed_in_single_precision() -> None:
    """2,000 updates of 1/2048 in fp16 add up to their mean; a fp16 accumulator would stall at 1."""
    update = {"w": np.full(3, 1 / 2048, np.float16)}
    mean = StreamingMean({"w": np.zeros(3, np.float32)})
    for _ in range(4096):
        mean.add(update, share=1.0)
    np.testing.assert_allclose(mean.finish(cap=1.0)["w"], 1 / 2048, rtol=1e-4)


def test_scale_shrinks_one_update_and_not_its_share() -> None:
    """An update shrunk to the norm bound still counts with its whole share in the divisor."""
    mean = StreamingMean({"w": np.zeros(1, np.float32)})
    mean.add({"w": np.array([100.0], np.float32)}, share=0.5, scale=0.01)
    mean.add({"w": np.array([3.0], np.float32)}, share=0.5)
    np.testing.assert_allclose(mean.finish(cap=0.8)["w"], [2.0])


def test_missing_sites_do_not_lift_a_site_over_the_cap() -> None:
    """With two of three sites gone, the one that is left moves the model by no more than the cap of its update."""
    mean = StreamingMean({"w": np.zeros(1, np.float32)})
    mean.add({"w": np.array([10.0], np.float32)}, share=0.6)
    np.testing.assert_allclose(mean.finish(cap=0.8)["w"], [8.0])


def test_fedavg_adds_the_mean() -> None:
    """FedAvg's next model is the current one plus the mean update."""
    current, update = arrays((4, 5)), arrays((4, 5))
    expected = current["layer0"] + update["layer0"]
    moved = ServerOptimiser(kind="fedavg").step(current, update, {})
    np.testing.assert_array_equal(moved["layer0"], expected)


def test_fedavgm_follows_hsu_2019() -> None:
    """Momentum accumulates updates: v = beta v + update, w = w + lr v, over three rounds."""
    optimiser = ServerOptimiser(kind="fedavgm", lr=0.7, momentum=0.9)
    model, state = arrays((6,)), {}
    weight, velocity = model["layer0"].astype(np.float64), np.zeros(6)
    for _ in range(3):
        update = arrays((6,))
        velocity = 0.9 * velocity + update["layer0"]
        model = optimiser.step(model, update, state)
        weight = weight + 0.7 * velocity
    np.testing.assert_allclose(model["layer0"], weight, rtol=1e-5)


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi"])
def test_adaptive_optimisers_follow_reddi_2021(kind: str) -> None:
    """FedAdam and FedYogi equal Algorithm 2 of the paper, written out in fp64, over four rounds."""
    optimiser = ServerOptimiser(kind=kind, lr=0.05, beta1=0.9, beta2=0.99)  # type: ignore[arg-type]
    model, state = arrays((8,)), {}
    weight, first, second = model["layer0"].astype(np.float64), np.zeros(8), np.full(8, ADAPTIVITY**2)
    for _ in range(4):
        update = arrays((8,))
        delta = update["layer0"].astype(np.float64)
        model = optimiser.step(model, update, state)
        first = 0.9 * first + 0.1 * delta
        if kind == "fedadam":
            second = 0.99 * second + 0.01 * delta**2
        else:
            second = second - 0.01 * delta**2 * np.sign(second - delta**2)
        weight = weight + 0.05 * first / (np.sqrt(second) + ADAPTIVITY)
    np.testing.assert_allclose(model["layer0"], weight, rtol=1e-4)


def test_a_stage_that_joins_later_starts_with_moments_at_rest() -> None:
    """Unfreezing adds names; their moments begin at rest, those of the others go on."""
    optimiser, state = ServerOptimiser(kind="fedavgm", lr=1.0, momentum=0.5), {}
    optimiser.step({"head": np.zeros(1, np.float32)}, {"head": np.ones(1, np.float32)}, state)
    both = {"head": np.zeros(1, np.float32), "stage": np.zeros(1, np.float32)}
    moved = optimiser.step(both, {name: np.ones(1, np.float32) for name in both}, state)
    assert (moved["head"][0], moved["stage"][0]) == (1.5, 1.0)


@pytest.mark.parametrize("kind", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_no_optimiser_makes_a_running_variance_negative(kind: str) -> None:
    """Momentum goes on after the variance has reached 0, and an adaptive step is of its own length."""
    optimiser = ServerOptimiser(kind=kind, lr=1.0, momentum=0.9, beta1=0.9, beta2=0.99)  # type: ignore[arg-type]
    model = {name: np.full(3, 0.5, np.float32) for name in ("bn1.running_mean", "bn1.running_var")}
    state: dict[str, np.ndarray] = {}
    for _ in range(3):
        model = dict(optimiser.step(model, {name: np.full(3, -0.3, np.float32) for name in model}, state))
        assert (model["bn1.running_var"] >= 0).all()
    assert (model["bn1.running_mean"] < 0).all(), "the step was long enough"
