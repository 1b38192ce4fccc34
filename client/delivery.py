"""The model and the report that a finished study gave this hospital, as files that it can use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save

from shared.errors import TaskError
from shared.landmarks import Standard
from shared.messages import Refusal
from shared.model_facts import write_facts
from shared.own_settings import Own, own_from_list
from shared.parameters import Array
from shared.plain_text import check_json
from shared.protocol import StudyProtocol
from shared.storage import atomic_file
from shared.tasks import Thresholds

MODEL = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Puts what a study delivers into a folder; a later delivery takes the place of an earlier one, file by file."""

    site: str
    folder: Path
    protocol: StudyProtocol

    def store(
        self,
        arrays: Mapping[str, Array],
        *,
        number: int,
        thresholds: Thresholds,
        standard: Standard,
        own: tuple[float, ...],
        documents: Mapping[str, bytes],
    ) -> None:
        """Write the whole model (torchvision's names, fp32) with what one must know to use it, and the documents.

        `own` are this site's own settings, as the task has them.

        Raises:
            TaskError: they are not such numbers, or the study lets no site have any; or a document is no JSON that
                may be shown (shared/plain_text.py). Nothing is stored then.
            StorageError: the disk is full or cannot be written.
        """
        try:
            for text in documents.values():
                check_json(text)
        except ValueError:
            raise TaskError(Refusal.WRONG_FORM, "a document is no JSON of the form that is taken in") from None
        facts = write_facts(
            self.protocol,
            arrays,
            thresholds=dict(zip(self.protocol.task.targets, thresholds, strict=False)),
            number=number,
            standard=standard,
            own=self._own(own),
            norm_layers="site" if self.protocol.federation.local_norm else "trained",
        )
        for name, text in documents.items():
            with atomic_file(self.folder / name) as part:
                part.write_bytes(text)
        with atomic_file(self.folder / MODEL) as part:
            part.write_bytes(save(dict(arrays), facts))

    def _own(self, numbers: tuple[float, ...]) -> Mapping[str, Own]:
        try:
            own = own_from_list(numbers, self.protocol.task.targets, switched_on=self.protocol.evaluation.own_settings)
        except (TypeError, ValueError):
            raise TaskError(Refusal.WRONG_FORM, "the task's own settings are not those of the approved study") from None
        return {self.site: own} if own else {}
