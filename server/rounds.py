"""The round loop on one page: ask, admit, aggregate, evaluate, save, stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flwr.app import ConfigRecord

from server.asking import Desk
from server.checkpoint import RunState
from server.strategy import FederatedStrategy
from server.validation import Choose, validation_record
from shared.amounts import counted
from shared.errors import FederationError
from shared.parameters import NamedArrays, digest
from shared.split import Split
from shared.wire import arrays_from_record, record_of

LOST_ROUNDS_IN_A_ROW = 3
"""After so many rounds without enough usable sites the run stops: it would only go on failing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What the loop needs of the study: how many rounds, what trains in each, and how the model is chosen."""

    rounds: int
    trained_names: Callable[[int], list[str]]
    select: Literal["last", "best_validation"]
    targets: tuple[str, ...]
    choose: Choose
    deadline_seconds: float


NEXT = "Look into the named sites' logs, or lower [federation] min_sites."

Progress = Callable[[Mapping[str, Any]], None]
"""Told of each finished round's record; shows it to a person."""


def run_rounds(
    *,
    desk: Desk,
    strategy: FederatedStrategy,
    plan: RoundPlan,
    state: RunState,
    save: Callable[[RunState], None],
    progress: Progress,
) -> RunState:
    """Run the rounds that `state` has not finished; each is saved before the next begins.

    Raises:
        FederationError: LOST_ROUNDS_IN_A_ROW rounds in a row had fewer than `min_sites` usable replies.
        StorageError: a finished round cannot be saved.
    """
    strategy.bound = _last_bound(state.history, plan)
    for number in range(state.round + 1, plan.rounds + 1):
        started = time.monotonic()
        before = record_of({name: state.model[name] for name in plan.trained_names(number)})
        replies = desk.ask(strategy.configure_train(number, before, ConfigRecord(), desk.grid), plan.deadline_seconds)
        after, _ = strategy.aggregate_train(number, replies)
        if after is not None:
            state.model = {**state.model, **arrays_from_record(after)}
        ask_for = ConfigRecord({"split": str(Split.VALIDATION)})
        scored = desk.ask(
            strategy.configure_evaluate(number, after or before, ask_for, desk.grid), plan.deadline_seconds
        )
        strategy.aggregate_evaluate(number, scored)
        state.history.append(
            _record(number, strategy, plan, desk, lost=after is None, seconds=time.monotonic() - started)
        )
        state.round, state.optimiser = number, strategy.optimiser_state
        state.best = _better(state.best, number, state.history[-1]["validation"]["macro_auc"])
        save(state)
        progress(state.history[-1])
        if sum(record["lost"] for record in state.history[-LOST_ROUNDS_IN_A_ROW:]) == LOST_ROUNDS_IN_A_ROW:
            raise FederationError(_why_lost(state.history[-1]))
    return state


def chosen_round(state: RunState, select: Literal["last", "best_validation"]) -> int:
    """Name the round whose model the study reports; without any validation evidence it is the last."""
    return state.best[0] if select == "best_validation" and state.best else state.round


def initial_state(model: NamedArrays) -> RunState:
    """Begin before round 1."""
    return RunState(model=model)


def _last_bound(history: Sequence[Mapping[str, Any]], plan: RoundPlan) -> dict[tuple[str, ...], float]:
    """Find how far an update of the last usable round could move the model; rounds of older versions do not say."""
    for record in reversed(history):
        if not record["lost"]:
            bound = record.get("bound")
            return {} if bound is None else {tuple(plan.trained_names(record["round"])): bound}
    return {}


def _better(best: tuple[int, float] | None, number: int, auc: float | None) -> tuple[int, float] | None:
    """Keep the earlier of equals, so that the choice does not drift without a gain."""
    return (number, auc) if auc is not None and (best is None or auc > best[1]) else best


def _record(
    number: int, strategy: FederatedStrategy, plan: RoundPlan, desk: Desk, *, lost: bool, seconds: float
) -> dict[str, Any]:
    sites = {
        name: {"refusal": entry.refusal}
        if entry.reply is None
        else {
            "refusal": None,
            "loss_by_epoch": list(entry.reply.loss_by_epoch),
            "update_norm": entry.update_norm,
            "factor": entry.factor,
            "update_bytes": entry.nbytes,
            "images_per_second": entry.reply.images_per_second,
            "seconds": entry.reply.seconds,
        }
        for name, entry in strategy.outcome.training.items()
    }
    validation = validation_record(strategy.outcome.evaluation, plan.targets, plan.choose)
    late = {site.name: desk.late[site.node_id] for site in strategy.sites if site.node_id in desk.late}
    return {
        "round": number,
        "lost": lost,
        "seconds": seconds,
        "bound": None if lost else strategy.bound.get(tuple(plan.trained_names(number))),
        "sites": sites,
        "late_replies": late,
        "validation": validation,
    }


def refuse_untrained(state: RunState, start: RunState) -> None:
    """Refuse to conclude rounds that left the model as it began: there is no model of a study to report.

    Raises:
        FederationError: every round was lost, or no site's update changed anything.
    """
    if not state.history:  # a model that was given: nobody was to train it
        return
    if all(record["lost"] for record in state.history):
        lost = "the only round" if len(state.history) == 1 else f"all {len(state.history)} rounds"
        raise FederationError(
            f"No model was trained: {lost} had too few usable sites ({_reasons(state.history[-1])}). {NEXT}"
        )
    if digest(state.model) == digest(start.model):
        raise FederationError(
            f"No model was trained: after {counted(len(state.history), 'round')} it is what it began as, because "
            "every update was nothing. Look whether sites have labels for the study's findings, and at the "
            "learning rates."
        )


def _why_lost(record: Mapping[str, Any]) -> str:
    return (
        f"round {record['round']} and the {LOST_ROUNDS_IN_A_ROW - 1} before it had too few usable sites "
        f"({_reasons(record)}). {NEXT}"
    )


def _reasons(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{site}: {entry['refusal']}" for site, entry in record["sites"].items() if entry["refusal"])
