"""What holds of the split for every study and every patient."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.split import Split, assign

keys = st.fixed_dictionaries(
    {"study": st.text(), "seed": st.integers(0, 2**63 - 1), "site": st.text(), "patient": st.text()}
)
fractions = st.floats(0, 1)


@given(keys, fractions, fractions)
def test_more_training_only_adds_training_patients(key: dict[str, object], one: float, other: float) -> None:
    """A patient who trains at a fraction still trains at a larger one."""
    smaller, larger = sorted((one, other))
    if assign(**key, train=smaller, validation=0) is Split.TRAIN:
        assert assign(**key, train=larger, validation=0) is Split.TRAIN


@given(keys)
def test_a_fraction_of_one_takes_all_and_of_zero_none(key: dict[str, object]) -> None:
    """The borders are exact: nobody falls out of a side that is everything, or into one that is nothing."""
    assert assign(**key, train=1, validation=0) is Split.TRAIN
    assert assign(**key, train=0, validation=1) is Split.VALIDATION
    assert assign(**key, train=0, validation=0) is Split.TEST


@given(keys.map(lambda key: {**key, "patient": ""}), st.floats(0.1, 0.8))
@settings(max_examples=20)
def test_sides_have_their_share(key: dict[str, object], train: float) -> None:
    """Of 2,000 patients as many train as the fraction says, within five standard errors."""
    sides = [assign(**{**key, "patient": str(number)}, train=train, validation=0.1) for number in range(2000)]
    tolerance = 5 * (0.25 / 2000) ** 0.5
    assert abs(sides.count(Split.TRAIN) / 2000 - train) < tolerance
    assert abs(sides.count(Split.VALIDATION) / 2000 - 0.1) < tolerance
