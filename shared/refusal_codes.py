"""The fixed codes with which a site refuses or fails, and which of them pass by themselves or come from the courier."""

from enum import StrEnum


class Refusal(StrEnum):
    """The fixed codes with which a site refuses or fails: all that ever leaves of an exception."""

    UNKNOWN_PROTOCOL = "unknown_protocol"
    OTHER_VERSION = "other_version"
    MALFORMED = "malformed"
    NOT_SIGNED = "not_signed_by_the_coordinator"
    ID_REUSED = "task_id_reused"
    WRONG_SITE = "wrong_site"
    WRONG_FORM = "arrays_of_wrong_form"
    NOT_FINITE = "arrays_not_finite"
    TOO_FEW_PATIENTS = "too_few_patients"
    TOO_FEW_IMAGES = "too_few_images"
    DATA = "data_unusable"
    STORAGE = "storage"
    DEVICE = "device"
    OUT_OF_MEMORY = "out_of_memory"
    EGRESS = "egress"
    DIVERGED = "training_diverged"
    PREPARING = "preparing"
    BUSY = "busy"
    UNREACHABLE = "agent_unreachable"
    TOO_LARGE = "too_large"
    OTHER_WEIGHTS = "initial_weights_differ"
    MOVED_TOO_FAR = "model_moved_too_far"
    ROUNDS_USED_UP = "rounds_used_up"
    TOO_MANY_A_DAY = "rounds_per_day"
    EVALUATIONS_USED_UP = "evaluations_used_up"
    TEST_RELEASED = "test_already_released"
    PRIVACY = "privacy_budget"
    INTERNAL = "internal"


ASK_AGAIN = frozenset({Refusal.PREPARING, Refusal.BUSY, Refusal.UNREACHABLE, Refusal.TOO_MANY_A_DAY})
"""Refusals that pass by themselves: the same task may be asked again until its deadline."""

FROM_THE_COURIER = frozenset({Refusal.BUSY, Refusal.UNREACHABLE, Refusal.TOO_LARGE, Refusal.MALFORMED})
"""Refusals that may come unsigned: the courier, which has no key, says that the agent gave no answer at all."""
