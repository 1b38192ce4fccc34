"""A receipt is one sentence that a director understands, and never claims more than its interval."""

from dataclasses import replace

import pytest

from server.receipt import Receipt, Worth
from server.report import render
from server.results import StudyResult
from server.target import Target
from server.wording_worth import FEW_PAIRS, blended, personal, rate_cautions, receipt
from shared.paired import Paired


def one(first: float, second: float, low: float, high: float, *, ranked: bool = True) -> Receipt:
    auc = Paired(first=first, second=second, difference=first - second, low=low, high=high)
    return Receipt(units=200, positives=80, ranked=ranked, auc=auc, sensitivity=None, specificity=None)


BETTER, WORSE, NEITHER = one(0.95, 0.9, 0.02, 0.08), one(0.9, 0.95, -0.08, -0.02), one(0.9, 0.91, -0.04, 0.02)


@pytest.mark.parametrize(
    ("owed", "worth", "said"),
    [
        (BETTER, Worth.BETTER, "Joining was worth it here: of 100 pairs of an exam with opacity and one without"),
        (BETTER, Worth.BETTER, "puts 95.0 in the right order, the model trained here alone 90.0"),
        (BETTER, Worth.BETTER, "(5.0 more, interval 2.0 to 8.0)."),
        (WORSE, Worth.WORSE, "Joining was not worth it here"),
        (WORSE, Worth.WORSE, "(5.0 fewer, interval 2.0 to 8.0)."),
        (NEITHER, Worth.NOT_SHOWN, "Neither gain nor loss in AUC was shown"),
        (NEITHER, Worth.NOT_SHOWN, "(difference −1.0, interval −4.0 to +2.0)"),
        (NEITHER, Worth.NOT_SHOWN, "Joining may have cost it as many as 4.0, or gained it as many as 2.0."),
        (one(0.9, 0.91, -0.236, 0.0004), Worth.NOT_SHOWN, "cost it as many as 23.6, or gained it fewer than 0.1."),
        (replace(BETTER, ranked=False), Worth.TOO_FEW, "Too few exams with opacity (80) to say"),
        (replace(BETTER, auc=None), Worth.TOO_FEW, "cannot be said: 80 of 200 exams have opacity."),
    ],
)
def test_the_sentence_says_what_was_shown(owed: Receipt, worth: Worth, said: str) -> None:
    """Better, worse, neither and too few each have their own sentence, with the pairs of 100 and the interval."""
    assert owed.worth is worth
    assert said in receipt(owed, target=Target(name="opacity", exclusive=False), unit="exam")


@pytest.mark.parametrize(
    ("owed", "said"),
    [
        (BETTER, "would have helped here: 95.0 of 100 pairs in the right order, 90.0 without (5.0 more"),
        (WORSE, "would have harmed here"),
        (NEITHER, "neither help nor harm was shown"),
        (replace(BETTER, ranked=False), "too few exams with opacity (80) to say"),
        (replace(BETTER, auc=None), "cannot be said: 80 of 200 exams have opacity."),
    ],
)
def test_own_layers_have_their_own_words(owed: Receipt, said: str) -> None:
    """Whether FedBN would have helped a site is said as its receipt is."""
    assert personal(owed, target=Target(name="opacity", exclusive=False), unit="exam").startswith(said)


@pytest.mark.parametrize(
    ("owed", "said"),
    [
        (BETTER, "better than its own alone: 95.0 of 100 pairs in the right order, 90.0 alone (5.0 more"),
        (WORSE, "worse than its own alone"),
        (NEITHER, "neither better nor worse than its own alone, as far as is shown"),
        (replace(BETTER, ranked=False), "too few exams with opacity (80) to say"),
        (replace(BETTER, auc=None), "cannot be said: 80 of 200 exams have opacity."),
    ],
)
def test_half_and_half_has_its_own_words(owed: Receipt, said: str) -> None:
    """Whether a site's own head and the federated one together beat its own is said as its receipt is."""
    assert blended(owed, target=Target(name="opacity", exclusive=False), unit="exam").startswith(said)


def test_half_and_half_is_on_the_page_where_it_was_tried(study_result: StudyResult) -> None:
    """Each site has its sentence, and the page has nothing of it where nobody asked."""
    page = render(study_result)
    for finding, halves in study_result.blended.items():
        assert halves
        assert all(
            blended(one, target=Target(name=finding, exclusive=False), unit="exam") in page for one in halves.values()
        )
    assert "half and half" not in render(replace(study_result, blended={}))


def test_own_layers_are_on_the_page_where_they_were_tried(study_result: StudyResult) -> None:
    """Each site has its sentence, and the page says which keys of the study switch it on."""
    page = render(study_result)
    for finding, layers in study_result.personal.items():
        assert all(
            personal(one, target=Target(name=finding, exclusive=False), unit="exam") in page for one in layers.values()
        )
    assert "local_norm = true" in page
    assert "own layers have helped" not in render(replace(study_result, personal={}))


def test_every_receipt_is_on_the_page(study_result: StudyResult) -> None:
    """Each site's sentence and row stand there; a site that withheld its evidence has words instead."""
    page = render(study_result)
    for finding, owed in study_result.receipts.items():
        for site in owed:
            assert receipt(owed[site], target=Target(name=finding, exclusive=False), unit="exam") in page
    assert page.count("The receipt: was it worth joining?") == 2
    assert "Federated minus alone, AUC for pneumonia, by site" in page


def test_the_page_says_where_rates_have_few_pairs(study_result: StudyResult) -> None:
    """A site with fewer than 30 of either class is named with its count; where all have more, nothing is said."""
    finding, owed = next(iter(study_result.receipts.items()))
    site = next(iter(owed))
    for positives, few in ((12, "12"), (188, "12"), (29, "29"), (30, ""), (170, ""), (0, "")):
        ones = {site: replace(owed[site], units=200, positives=positives)}
        assert rate_cautions(ones) == (f"{site} ({few})" if few else "")
    for positives in (29, 30):
        ones = {site: replace(owed[site], units=200, positives=positives)}
        page = render(replace(study_result, receipts={finding: ones}))
        shown = positives < FEW_PAIRS
        assert page.count("a real gain or loss may not be shown. So it is at") == shown
        assert (f"So it is at {site} (29)." in page) == shown


def test_without_receipts_the_page_asks_nothing(study_result: StudyResult) -> None:
    """A study without local baselines has no receipt, no heading for one and no empty figure."""
    page = render(replace(study_result, receipts={}))
    assert "The receipt" not in page
    assert "Federated minus alone" not in page


def test_the_sample_studys_receipts_agree_with_its_sites(study_result: StudyResult) -> None:
    """In results.json a receipt's AUCs are those that the site's own results have."""
    for finding, owed in study_result.receipts.items():
        for site, one in owed.items():
            auc = study_result.of_site(site, "test", finding).auc
            assert (one.auc is None) == (auc is None)
            assert not one.auc or one.auc.first == pytest.approx(auc.value)  # type: ignore[union-attr]
