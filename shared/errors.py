"""The exception tree with exit codes; every message says what, where and what to do next, and never a patient value.

PolyclinicError                       exit code
├── StudyError                        10   study.toml is wrong, or asks for what this version cannot do
├── SiteError                         11   site.toml is wrong
├── DataError                         12   images or labels cannot be used
├── WeightsError                      13   pretrained weights are missing or contradict the study
├── DeviceError                       14   the asked-for device is not there
├── StorageError                      15   a disk is full, or a file is half-written, foreign or unreadable
├── FederationError                   16   too few sites, or a round in which no site could be used
├── PrivacyError                      17   the privacy budget does not allow it, or the ledger cannot be trusted
├── EgressError                       18   the guard refused to let something leave
├── TaskError                         19   a site refused a task
├── MissingPartError                  20   the command's part of Polyclinic is not installed here
└── CoordinatorError                  21   the coordinator's settings, keys or records do not allow it

Exit code 1 is a bug in Polyclinic, 2 a wrong command line, 3 a question answered with no, and 130 Ctrl-C.
"""

from typing import ClassVar


class PolyclinicError(Exception):
    """Root of all errors that a user can act on; shown without a traceback."""

    exit_code: ClassVar[int] = 1


class StudyError(PolyclinicError):
    """The study's declaration is wrong, or asks for what this version cannot do."""

    exit_code = 10


class SiteError(PolyclinicError):
    """A hospital's site.toml is wrong."""

    exit_code = 11


class DataError(PolyclinicError):
    """Images or labels cannot be used."""

    exit_code = 12


class WeightsError(PolyclinicError):
    """Pretrained weights are missing or contradict the study."""

    exit_code = 13


class DeviceError(PolyclinicError):
    """The device that was asked for is not there."""

    exit_code = 14


class StorageError(PolyclinicError):
    """A disk is full, or a file is half-written, foreign or unreadable."""

    exit_code = 15


class FederationError(PolyclinicError):
    """Too few sites, or a round in which no site could be used."""

    exit_code = 16


class PrivacyError(PolyclinicError):
    """The privacy budget does not allow it, or the ledger cannot be trusted."""

    exit_code = 17


class EgressError(PolyclinicError):
    """The guard refused to let something leave the site."""

    exit_code = 18


class TaskError(PolyclinicError):
    """A site refused a task; `code` is one of the fixed codes that may leave."""

    exit_code = 19

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MissingPartError(PolyclinicError):
    """The command's part of Polyclinic is not installed here."""

    exit_code = 20


class CoordinatorError(PolyclinicError):
    """The coordinator's settings, keys or records do not allow it."""

    exit_code = 21
