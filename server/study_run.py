"""One run of a study, from asking who is ready to the chosen model's evidence on test patients."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict

from server.admission import Accepted, Reason, Refused, admit_description, admit_flow, who_joined
from server.asking import Desk
from server.bootstrap import Coordinator
from server.checkpoint import CheckpointFolder, RunState
from server.own_settings import OwnResults, own_results, to_apply
from server.readiness_words import TOO_FEW, what_to_do
from server.round_records import write_rounds
from server.rounds import Progress, chosen_round, refuse_untrained, run_rounds
from server.seals import UNSEALED, Seals
from server.site_bounds import Bounds, bounds
from server.strategy import Site
from server.validation import Evaluations, operating_points, thresholds_of
from shared.amounts import counted
from shared.description import Description
from shared.errors import FederationError
from shared.landmarks import Landmarks
from shared.messages import (
    DeliverReply,
    DeliverTask,
    DescribeReply,
    DescribeTask,
    Header,
    Kind,
    LandmarksReply,
    LandmarksTask,
    ReadyReply,
    ReadyTask,
    Refusal,
    encode_task,
)
from shared.operating_point import OperatingPoint
from shared.own_settings import own_to_list
from shared.parameters import NamedArrays, cast, digest
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.tasks import Thresholds, to_floats
from shared.wire import record_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a finished run shows: the chosen round's model, its operating points, and the sites' evidence.

    `operating_point` is None for a target of which no site released a validation positive. `own` has what each site may
    use of its own, where the study switches that on.
    """

    state: RunState
    chosen: int
    model: NamedArrays
    operating_point: Mapping[str, OperatingPoint | None]
    validation: Evaluations
    test: Evaluations
    own: OwnResults


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """A study over some sites: those in `train_on` make the model, those in `test_on` test it.

    `nodes` maps every site to its Flower node, and `largest` to how many patients it can have, where the coordinator
    was told. `begin` is where a run without checkpoints starts; None is before round 1.
    """

    coordinator: Coordinator
    desk: Desk
    nodes: Mapping[str, int]
    train_on: Sequence[str]
    test_on: Sequence[str]
    run_id: str
    min_sites: int
    folder: Path
    deadline_seconds: float
    seals: Seals = UNSEALED
    largest: Mapping[str, int] = field(default_factory=dict)
    begin: RunState | None = None

    def flows(self) -> dict[str, ReleasedFlow | Refused]:
        """Ask every site for its patient flow."""
        return self.flows_of(self.ready(self.deadline_seconds))

    def ready(self, deadline_seconds: float) -> dict[str, ReadyReply | Refused]:
        """Ask every site whether it is ready: its version, on whose word it takes part, and its patient flow."""
        headers = {site: self._header(site) for site in sorted(self.nodes)}
        contents = {site: encode_task(ReadyTask(header=header)) for site, header in headers.items()}
        found: dict[str, ReadyReply | Refused] = {site: Refused(reason=Reason.NO_REPLY) for site in headers}
        return found | dict(self._ask(headers, contents, ReadyReply, group="0", deadline_seconds=deadline_seconds))

    def flows_of(self, ready: Mapping[str, ReadyReply | Refused]) -> dict[str, ReleasedFlow | Refused]:
        """Admit the sites' patient flows."""
        targets = len(self.coordinator.protocol.task.targets)
        return {
            site: reply
            if isinstance(reply, Refused)
            else admit_flow(reply, targets=targets, largest=self.largest.get(site))
            for site, reply in ready.items()
        }

    def run(self, flows: Mapping[str, ReleasedFlow | Refused], *, progress: Progress) -> Conclusion:
        """Run the rounds that are not finished yet, choose the model and its operating points, and test it once.

        Raises:
            FederationError: fewer than `min_sites` sites can take part, or no round changed the model.
            StorageError: a round cannot be saved, or the folder holds another study's checkpoints.
        """
        coordinator, checkpoints = self.coordinator, self.coordinator.checkpoints(self.folder / "checkpoints")
        state = checkpoints.latest() or self.begin or coordinator.start()
        roster = self._roster(flows)
        if coordinator.protocol.images.harmonise == "landmarks" and not state.landmarks:
            state.landmarks, state.no_landmarks = self._landmarks([site.name for site in roster])
            checkpoints.save(state)  # a scale that was sent once must not change, whoever answers after a restart
        strategy = coordinator.strategy(
            roster, run_id=self.run_id, min_sites=self.min_sites, state=state, seals=self.seals
        )
        plan = coordinator.plan(deadline_seconds=self.deadline_seconds)

        def save(state: RunState) -> None:
            checkpoints.save(state)
            write_rounds(self.folder, state.history)

        write_rounds(self.folder, state.history)  # a kill may have come between the two
        state = run_rounds(desk=self.desk, strategy=strategy, plan=plan, state=state, save=save, progress=progress)
        refuse_untrained(state, coordinator.start())
        return self._conclude(state, checkpoints, flows)

    def _landmarks(self, sites: Sequence[str]) -> tuple[dict[str, Landmarks | None], dict[str, str]]:
        """Ask the sites that train where their images' landmarks lie; who does not say has a code for why.

        Raises:
            FederationError: fewer than `min_sites` sites said so.
        """
        headers = {site: self._header(site, Kind.LANDMARKS) for site in sites}
        contents = {site: encode_task(LandmarksTask(header=header)) for site, header in headers.items()}
        found: dict[str, Landmarks | None] = dict.fromkeys(sites)
        absent: dict[str, str] = dict.fromkeys(sites, Reason.NO_REPLY)
        for site, reply in self._ask(
            headers, contents, LandmarksReply, group="landmarks", deadline_seconds=self.deadline_seconds
        ):
            match reply:
                case Refused(reason=reason):
                    absent[site] = reason
                case LandmarksReply(landmarks=Landmarks() as said):
                    found[site] = said
                    del absent[site]
                case _:
                    absent[site] = Refusal.TOO_FEW_PATIENTS
        if len(sites) - len(absent) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in absent.items())
            raise FederationError(
                f"{len(sites) - len(absent)} of {len(sites)} sites said where their images' landmarks lie, and the "
                f"study needs {self.min_sites} ({why}). A site says so once an approval: where an earlier run asked "
                "already (evaluations_used_up), approve the study there again, and resume this run. Where too few "
                "patients have no disease (too_few_patients), set [images] harmonise = 'none'."
            )
        return found, absent

    def describe(
        self, conclusion: Conclusion, flows: Mapping[str, ReleasedFlow | Refused]
    ) -> dict[str, Description | Refused]:
        """Ask every site that joined and tests the model how its images look to it; the others have their reason."""
        joined, absent = who_joined(self.test_on, flows)
        headers = {site: self._about(site, Kind.DESCRIBE, conclusion) for site in joined}
        record = record_of(cast(conclusion.model, self.coordinator.protocol.federation.wire))
        contents = {
            site: encode_task(DescribeTask(header=header, arrays={}), arrays=record) for site, header in headers.items()
        }
        targets = len(self.coordinator.protocol.task.targets)
        found: dict[str, Description | Refused] = {site: Refused(reason=Reason.NO_REPLY) for site in headers}
        for site, reply in self._ask(
            headers, contents, DescribeReply, group="describe", deadline_seconds=self.deadline_seconds
        ):
            most = self._most(site, joined[site])
            found[site] = reply if isinstance(reply, Refused) else admit_description(reply, targets=targets, most=most)
        return {**absent, **found}

    def deliver(self, conclusion: Conclusion, documents: Mapping[str, bytes], *, deadline_seconds: float) -> list[str]:
        """Hand every site the chosen model, its thresholds and the documents; name the sites that stored them."""
        targets = self.coordinator.protocol.task.targets
        thresholds = thresholds_of(conclusion.operating_point, targets)
        headers = {site: self._about(site, Kind.DELIVER, conclusion) for site in sorted(self.nodes)}
        contents = {
            site: encode_task(
                DeliverTask(
                    header=header,
                    arrays=conclusion.model,
                    thresholds=thresholds,
                    documents=documents,
                    own=tuple(own_to_list(to_apply(conclusion.own, site), targets)),
                )
            )
            for site, header in headers.items()
        }
        sent = digest(conclusion.model)
        return [
            site
            for site, reply in self._ask(
                headers, contents, DeliverReply, group="deliver", deadline_seconds=deadline_seconds
            )
            if isinstance(reply, DeliverReply) and reply.arrays_digest == sent
        ]

    def _ask(
        self,
        headers: Mapping[str, Header],
        contents: Mapping[str, RecordDict],
        kind: type[Accepted],
        *,
        group: str,
        deadline_seconds: float,
    ) -> Iterator[tuple[str, Accepted | Refused]]:
        """Send each site its task, and give what each answered, as answers come; who says nothing is not in it."""
        requests = {site: self.seals.seal(contents[site]) for site in headers}
        messages = [
            Message(contents[site], self.nodes[site], str(header.kind), group_id=group)
            for site, header in headers.items()
        ]
        for message in self.desk.ask(messages, deadline_seconds):
            site = self._site(message)
            task_id, request = headers[site].task_id, requests[site]
            yield site, self.seals.opened(message, site=site, task_id=task_id, request=request, kind=kind)

    def _conclude(
        self, state: RunState, checkpoints: CheckpointFolder, flows: Mapping[str, ReleasedFlow | Refused]
    ) -> Conclusion:
        protocol = self.coordinator.protocol
        number = chosen_round(state, protocol.federation.select)
        model = state.model if number == state.round else checkpoints.load(number).model
        ask = partial(self._evaluate, state, flows, model, number)
        # Another task than the round's own validation: it sends every array that trains in any round.
        scored = ask(self.train_on, Split.VALIDATION, thresholds=())
        choose = self.coordinator.plan(deadline_seconds=self.deadline_seconds).choose
        operating_point = operating_points(scored, protocol.task.targets, choose)
        thresholds = thresholds_of(operating_point, protocol.task.targets)
        validation = ask(self.train_on, Split.VALIDATION, thresholds=thresholds)
        test = ask(self.test_on, Split.TEST, thresholds=thresholds)
        return Conclusion(
            state=state,
            chosen=number,
            model=model,
            operating_point=operating_point,
            validation=validation,
            test=test,
            own=own_results(protocol, validation, test, operating_point),
        )

    def _evaluate(
        self,
        state: RunState,
        flows: Mapping[str, ReleasedFlow | Refused],
        model: NamedArrays,
        number: int,
        sites: Iterable[str],
        split: Split,
        *,
        thresholds: Thresholds,
    ) -> Evaluations:
        """Ask the sites that joined for their evidence; of the others nothing would bound it."""
        joined, absent = who_joined(sites, flows)
        if not joined:
            return absent
        roster = [self._site_of(site, flow, weight=1.0) for site, flow in joined.items()]
        strategy = self.coordinator.strategy(roster, run_id=self.run_id, min_sites=1, state=state, seals=self.seals)
        wish = ConfigRecord({"split": str(split), "thresholds": to_floats(thresholds), "purpose": "+conclusion"})
        messages = strategy.configure_evaluate(number, record_of(model), wish, self.desk.grid)
        strategy.aggregate_evaluate(number, self.desk.ask(messages, self.deadline_seconds))
        return absent | strategy.outcome.evaluation

    def _roster(self, flows: Mapping[str, ReleasedFlow | Refused]) -> list[Site]:
        """Weigh the sites that are ready by their training patients, or equally; suppressed means too few to train."""
        by_patients = self.coordinator.protocol.federation.weighting == "patients"
        joined, absent = who_joined(self.train_on, flows)
        patients = {site: flow.splits[Split.TRAIN].patients for site, flow in joined.items()}
        weights = {site: float(told) if by_patients else 1.0 for site, told in patients.items() if told}
        reasons = {
            site: absent[site].reason if site in absent else TOO_FEW for site in self.train_on if site not in weights
        }
        if len(weights) < self.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in reasons.items()) or "no others were named"
            raise FederationError(
                f"{len(weights)} of {counted(len(self.train_on), 'site')} can take part, and the study "
                f"needs {self.min_sites} ({why}). {what_to_do(reasons)}".rstrip()
            )
        return [self._site_of(site, joined[site], weight=weight) for site, weight in weights.items()]

    def _site_of(self, name: str, flow: ReleasedFlow, *, weight: float) -> Site:
        return Site(name=name, node_id=self.nodes[name], weight=weight, most=self._most(name, flow))

    def _most(self, site: str, flow: ReleasedFlow) -> Bounds:
        return bounds(flow, self.coordinator.protocol, largest=self.largest.get(site))

    def _about(self, site: str, kind: Kind, conclusion: Conclusion) -> Header:
        """Head a task about the chosen model, with the images as that was trained on."""
        return replace(self._header(site, kind, conclusion.chosen), standard=conclusion.state.standard)

    def _header(self, site: str, kind: Kind = Kind.READY, number: int = 0) -> Header:
        protocol = self.coordinator.protocol.digest()
        return Header(protocol_digest=protocol, run_id=self.run_id, round=number, site=site, kind=kind)

    def _site(self, message: Message) -> str:
        return next(site for site, node in self.nodes.items() if node == message.metadata.src_node_id)
