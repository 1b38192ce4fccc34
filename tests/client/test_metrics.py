"""The agent's own figures: present once known, absent before, and never free text."""

from prometheus_client.parser import text_string_to_metric_families

from client.metrics import NAMES, SiteMetrics


def _samples(metrics: SiteMetrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.page().decode())
    return {" ".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples}


def _metrics() -> SiteMetrics:
    return SiteMetrics(site="north", version="0.1.0", studies=["ab12"])


def test_what_is_not_known_is_absent_and_not_zero():
    """Before the first task there is no loss, no speed, no contact and no privacy loss on the page."""
    assert _samples(_metrics()) == {"polyclinic_site_info north ab12 0.1.0": 1, "polyclinic_site_rounds_total": 0}


def test_each_event_changes_its_figures():
    """A task, a training, a refusal, the cache and the ledger all show, with the numbers that were given."""
    metrics = _metrics()
    metrics.began(at=1_800_000_000.0)
    assert _samples(metrics)["polyclinic_site_busy"] == 1
    metrics.trained(round=3, loss=0.25, images_per_second=120.0, seconds=4.0)
    metrics.answered("train")
    metrics.refused("unknown_protocol")
    metrics.answered("refusal")
    metrics.cached("ab12", images=30, of=40)
    metrics.spent(epsilon=1.5, left=6.5)
    found = _samples(metrics)
    assert found == {
        "polyclinic_site_info north ab12 0.1.0": 1,
        "polyclinic_site_tasks_total train": 1,
        "polyclinic_site_tasks_total refusal": 1,
        "polyclinic_site_refusals_total unknown_protocol": 1,
        "polyclinic_site_rounds_total": 1,
        "polyclinic_site_round": 3,
        "polyclinic_site_loss": 0.25,
        "polyclinic_site_images_per_second": 120,
        "polyclinic_site_train_seconds": 4,
        "polyclinic_site_cache_fill_ratio": 0.75,
        "polyclinic_site_last_contact_timestamp_seconds": 1_800_000_000,
        "polyclinic_site_busy": 0,
        "polyclinic_site_epsilon_spent": 1.5,
        "polyclinic_site_epsilon_left": 6.5,
    }
    assert {name.split()[0] for name in found} == set(NAMES)


def test_a_private_round_shows_no_loss_not_even_the_one_before():
    """Under [privacy] the loss is absent, also where an earlier round had one."""
    metrics = _metrics()
    metrics.trained(round=1, loss=0.25, images_per_second=120.0, seconds=4.0)
    metrics.trained(round=2, loss=None, images_per_second=110.0, seconds=5.0)
    found = _samples(metrics)
    assert "polyclinic_site_loss" not in found
    assert found["polyclinic_site_round"] == found["polyclinic_site_rounds_total"] == 2


def test_an_empty_study_has_a_full_cache():
    """With nothing to prepare nothing is missing."""
    metrics = _metrics()
    metrics.cached("ab12", images=0, of=0)
    assert _samples(metrics)["polyclinic_site_cache_fill_ratio"] == 1
