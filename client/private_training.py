"""A private round: charged to the ledger before its first step, then trained by the plan with the site's own noise."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from client.disclosure import too_few_to_train
from client.dp_engine import Patients
from client.inputs import Inputs
from client.noise import SecretStreams
from client.private_trainer import train_privately
from client.site_data import Records
from client.trainer import Outcome
from client.workbench import Workbench
from shared.errors import StudyError, TaskError
from shared.messages import Refusal, TrainTask
from shared.parameters import digest
from shared.privacy import PrivacyPlan
from shared.protocol import StudyProtocol
from shared.row_gradient import build_row_gradient

Pay = Callable[[TrainTask], PrivacyPlan]
"""Charges one round, durably and once, and gives the plan by which it must be trained, or raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTraining:
    """Trains under [privacy]: `pay` is the ledger's, and `key` the secret of which all coins and noise are drawn.

    `plan` is what the study and the site's public size fixed before round 1. `min_patients` is the hospital's.
    """

    plan: PrivacyPlan
    pay: Pay
    key: bytes = field(repr=False)
    min_patients: int

    def train(
        self, task: TrainTask, *, bench: Workbench, inputs: Inputs, records: Records, protocol: StudyProtocol
    ) -> Outcome:
        """Train one round of the study; the bench holds the task's arrays, and what they have become afterwards.

        The same task over the same data ends with the same bits however often it is begun. Its coins are bound to its
        id and its arrays, and its noise to the data too.

        Raises:
            PrivacyError: the ledger cannot pay for the round.
            TaskError: the public size is below the hospital's minimum.
            StorageError: the charge cannot be written; nothing was trained then.
        """
        if too_few_to_train(self.plan.expected_patients, self.min_patients):
            raise TaskError(
                Refusal.TOO_FEW_PATIENTS,
                "this site's public size is below its min_cell. Lower [policy] min_cell, or leave the study to others.",
            )
        plan = self.pay(task)
        training = protocol.training
        if training.loss == "weighted_bce":
            raise StudyError(
                "Under [privacy], [training] loss = 'weighted_bce' weighs by the site's labels. Use 'bce'."
            )
        streams = SecretStreams(key=self.key, task_id=task.header.task_id, arrays_digest=digest(task.arrays))
        return train_privately(
            bench,
            inputs,
            plan=plan,
            patients=Patients.of(records.training_rows(), records.patients_N),
            labels_NK=records.labels_NK,
            start=protocol.model.trains_from(task.header.round),
            training=training,
            centre_steps=self._centre_steps(task.header.round, protocol),
            gradient=build_row_gradient(
                training.loss, exclusive=protocol.task.exclusive, gamma=training.gamma, alpha=training.alpha
            ),
            streams=streams,
            noise=streams.over(records.digest()),
        )

    def _centre_steps(self, number: int, protocol: StudyProtocol) -> int:
        """Say how many steps the study has for the features' centre, if this is one of the rounds that take them."""
        return protocol.centre_rounds * self.plan.steps_per_round if number <= protocol.centre_rounds else 0

    def without_noise(self) -> Self:
        """Give the same training, step for step, without noise or charge: for a simulation's twin alone."""
        plan = replace(self.plan, noise_multiplier=0.0)
        return replace(self, plan=plan, pay=lambda _: plan)
