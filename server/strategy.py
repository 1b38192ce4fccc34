"""Flower Strategy: what to ask of each site and how replies change the model."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.adaptive_bound import held_to_the_step
from server.admission import Accepted, Admitted, Reason, Refused, admit_evidence, admit_update
from server.aggregation import ServerOptimiser, capped_shares
from server.combining import Combine, Part, mean_squares
from server.kept_updates import KeptUpdates
from server.seals import UNSEALED, Seals
from server.site_bounds import NOT_TOLD, Bounds
from server.update_bound import GROWTH, round_bound, shrunk_to
from shared.landmarks import Standard
from shared.messages import EvaluateReply, EvaluateTask, Header, Kind, Task, TrainReply, TrainTask, encode_task
from shared.packing import PackedArrays, pack
from shared.parameters import Array, NamedArrays, Wire, cast
from shared.split import Split
from shared.tasks import Thresholds, from_floats
from shared.wire import arrays_from_record, record_of

log = logging.getLogger("polyclinic.server")

HARDLY_ENTERS = 0.01
"""An update that is multiplied by less than this is told: it is an attack, or the one that measures it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site on the roster: its name, its Flower node, its weight before shares are capped, and how large it can be."""

    name: str
    node_id: int
    weight: float
    most: Bounds = field(default_factory=lambda: NOT_TOLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The study's rules of aggregation, as this strategy uses them.

    `combine` makes one update of a round's; `norm_multiple` and `norm_bound` say how far each may go
    (server/update_bound.py).
    `epochs` is how many losses a site tells of a round, `axes` by what it counts subgroups.
    `standard` is the scale that sites bring their images to, where the study harmonises.
    """

    protocol_digest: str
    run_id: str
    optimiser: ServerOptimiser
    min_sites: int
    weight_cap: float
    combine: Combine
    norm_multiple: float
    norm_bound: float
    epochs: int
    targets: tuple[str, ...]
    bins: int
    axes: tuple[str, ...]
    wire: Wire
    standard: Standard = ()
    seals: Seals = UNSEALED


@dataclass(slots=True, kw_only=True)
class SiteRound:
    """How one site's training went in one round: its figures, or the reason of its refusal.

    `update_norm` is that of the update as it came, `factor` what it was multiplied by before it entered.
    """

    reply: TrainReply | None = None
    update_norm: float = 0.0
    factor: float = 1.0
    nbytes: int = 0
    refusal: str | None = None


@dataclass(slots=True)
class Outcome:
    """What the strategy learnt from the last replies, by site; arrays are not kept."""

    training: dict[str, SiteRound] = field(default_factory=dict)
    evaluation: dict[str, EvaluateReply | Refused] = field(default_factory=dict)


class FederatedStrategy(Strategy):
    """FedAvg, FedProx, FedAvgM, FedAdam and FedYogi over updates that arrive one at a time.

    It runs under Polyclinic's round loop and, unchanged, under Flower's own `Strategy.start`. Sites are asked, and
    their updates summed, in the order of their names. The model is an fp32 ArrayRecord on this side, whatever travels.
    FedProx differs at the site alone (client/trainer.py). `bound` is how far an update of the last round could move the
    model, by the names of the arrays that trained in it.
    """

    def __init__(self, *, sites: Iterable[Site], rules: Rules, optimiser_state: dict[str, Array]) -> None:
        self.sites = sorted(sites, key=lambda site: site.name)
        self.optimiser_state = optimiser_state
        self.outcome = Outcome()
        self._rules = rules
        self._shares = capped_shares({site.name: site.weight for site in self.sites}, cap=rules.weight_cap)
        self._by_node = {site.node_id: site for site in self.sites}
        self._asked: dict[str, Header] = {}
        self._requests: dict[str, str] = {}
        self._model: NamedArrays = {}
        self._split, self._thresholds = Split.VALIDATION, Thresholds()
        self.bound: dict[tuple[str, ...], float] = {}

    def summary(self) -> None:
        """Log who takes part and how."""
        log.info("%s over %d sites", self._rules.optimiser.kind, len(self.sites))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Ask every site to train one round from `arrays`."""
        self._model = arrays_from_record(arrays)
        return self._ask(arrays, Kind.TRAIN, server_round, "", lambda head: TrainTask(header=head, arrays={}))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit and combine the updates, one in memory at a time; None when fewer than `min_sites` could be used."""
        self.outcome.training = {site.name: SiteRound(refusal=Reason.NO_REPLY) for site in self.sites}
        with KeptUpdates(self._model) as kept:
            for message in replies:
                site = self._by_node[message.metadata.src_node_id]
                self.outcome.training[site.name] = self._keep(kept, message, site)
                del message  # the next reply is made while this loop waits for it
            admitted = {name: entry for name, entry in self.outcome.training.items() if entry.refusal is None}
            if len(admitted) < self._rules.min_sites:
                return None, None
            self._shrink(admitted.values())
            moved = self._step(kept, admitted)
        return record_of(moved), MetricRecord({"sites": len(admitted)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Ask every site to score the split in `config["split"]`, at the thresholds in it if any.

        `config["purpose"]` tells two questions about the same split in the same round apart, and so their task ids.
        """
        split = Split(str(config.get("split", Split.VALIDATION)))
        thresholds = from_floats(config.get("thresholds", []))  # type: ignore[arg-type]
        self._split, self._thresholds = split, thresholds
        detail = f"{split}{'+counts' if thresholds else ''}{config.get('purpose', '')!s}"
        return self._ask(
            arrays,
            Kind.EVALUATE,
            server_round,
            detail,
            lambda head: EvaluateTask(header=head, arrays={}, split=split, thresholds=thresholds),
        )

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep each site's evidence; merging it is the results' work (server/results.py)."""
        self.outcome.evaluation = {site.name: Refused(reason=Reason.NO_REPLY) for site in self.sites}
        for message in replies:
            site = self._by_node[message.metadata.src_node_id]
            reply = self._opened(message, site, EvaluateReply)
            if isinstance(reply, EvaluateReply):
                reply = self._admit_evidence(reply, site)
            self.outcome.evaluation[site.name] = reply
        return None

    def _ask(
        self, arrays: ArrayRecord, kind: Kind, number: int, detail: str, task: Callable[[Header], Task]
    ) -> Iterator[Message]:
        record = arrays if self._rules.wire == "fp32" else record_of(cast(arrays_from_record(arrays), self._rules.wire))
        for site in self.sites:
            header = Header(
                protocol_digest=self._rules.protocol_digest,
                run_id=self._rules.run_id,
                round=number,
                site=site.name,
                kind=kind,
                detail=detail,
                standard=self._rules.standard,
            )
            self._asked[site.name] = header
            content = encode_task(task(header), arrays=record)
            self._requests[site.name] = self._rules.seals.seal(content)
            yield Message(content, site.node_id, str(kind), group_id=str(number))

    def _keep(self, kept: KeptUpdates, message: Message, site: Site) -> SiteRound:
        """Keep one site's update on disk if it is admitted; nothing of its arrays stays in memory."""
        verdict = self._admit(message, site)
        if isinstance(verdict, Refused):
            log.warning("round %d: %s is left out: %s", self._asked[site.name].round, site.name, verdict.reason)
            return SiteRound(refusal=verdict.reason)
        kept.keep(site.name, verdict.reply.update)
        nbytes = sum(run.nbytes for run in pack(verdict.reply.update).runs)
        return SiteRound(reply=replace(verdict.reply, update={}), update_norm=verdict.norm, nbytes=nbytes)

    def _shrink(self, admitted: Collection[SiteRound]) -> None:
        """Say by what each update is multiplied, and remember how far those of this round could go."""
        names = tuple(self._model)
        bound = round_bound(
            [entry.update_norm for entry in admitted],
            multiple=self._rules.norm_multiple,
            norm_bound=self._rules.norm_bound,
            last=self.bound.get(names),
        )
        told = sorted(entry.update_norm for entry in admitted if entry.update_norm)
        if self._rules.norm_multiple and names not in self.bound and len(told) == 2 and told[1] > GROWTH * told[0]:
            log.warning(
                "two updates, of the norms %.3g and %.3g, and nothing says which is right: none counts more than "
                "the shorter, and the bound at most doubles a round. See rounds.jsonl; a third site would decide",
                *told,
            )
        for entry in admitted:
            entry.factor = shrunk_to(bound, entry.update_norm)
        if hardly := sum(entry.factor < HARDLY_ENTERS for entry in admitted):
            log.warning(
                "%d of %d updates enter with less than %g of their norm; compare the sites' norms in rounds.jsonl",
                hardly,
                len(admitted),
                HARDLY_ENTERS,
            )
        self.bound = {} if bound is None else {names: bound}

    def _step(self, kept: KeptUpdates, admitted: Mapping[str, SiteRound]) -> PackedArrays:
        """Combine the updates and move the model; an adaptive step is bounded once more, where it moves the model."""
        rules, state, squares = self._rules, self.optimiser_state, None
        parts = {name: Part(share=self._shares[name], scale=entry.factor) for name, entry in admitted.items()}
        if rules.optimiser.adaptive:
            squares = mean_squares(kept, parts, cap=rules.weight_cap)
            gains = rules.optimiser.gains(squares, state)
            for name, factor in held_to_the_step(kept, parts, gains, multiple=rules.norm_multiple).items():
                admitted[name].factor *= factor
                parts[name] = replace(parts[name], scale=admitted[name].factor)
        return rules.optimiser.step(self._model, rules.combine(kept, parts), state, squares=squares)

    def _admit(self, message: Message, site: Site) -> Admitted | Refused:
        reply = self._opened(message, site, TrainReply)
        if isinstance(reply, Refused):
            return reply
        return admit_update(reply, model=self._model, wire=self._rules.wire, epochs=self._rules.epochs)

    def _admit_evidence(self, reply: EvaluateReply, site: Site) -> EvaluateReply | Refused:
        return admit_evidence(
            reply,
            targets=len(self._rules.targets),
            bins=self._rules.bins,
            thresholds=self._thresholds,
            axes=self._rules.axes,
            most=site.most[self._split],
        )

    def _opened(self, message: Message, site: Site, kind: type[Accepted]) -> Accepted | Refused:
        task_id, request = self._asked[site.name].task_id, self._requests[site.name]
        return self._rules.seals.opened(message, site=site.name, task_id=task_id, request=request, kind=kind)
