"""Flower's SuperLink, with a password on its Control API, for which Flower's own distribution has none."""

import hmac
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.cli import flower_superlink

from server.coordinator_folder import COORDINATOR_VARIABLE, CoordinatorFolder

CHOICE = "load_control_authn_plugin"
"""What flower-superlink 1.41 calls to choose who checks passwords; its own finds none but the paid edition's."""

Metadata = Sequence[tuple[str, str | bytes]]


class OwnCommandsOnly(ControlAuthnPlugin):
    """Lets in who shows the coordinator's secret, as the account that all of this SuperLink's runs and nodes have."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Compare what a request shows."""
        shown = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        shown = shown.encode() if isinstance(shown, str) else shown
        if not hmac.compare_digest(shown, self._secret):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Offer no login: there is one secret, and who has it needs none."""
        self._refuse()

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """Give nobody a token."""
        self._refuse()

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """Give nobody a token."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise FlowerError(ApiErrorCode.NO_ACCOUNT_AUTH, "There is no login here.")


def main() -> None:
    """Become Flower's SuperLink; its command line is Flower's, and the secret lies in the coordinator's folder."""
    folder = CoordinatorFolder(path=Path(os.environ[COORDINATOR_VARIABLE]))
    secret = folder.control_secret.read_bytes()
    command = sys.modules[flower_superlink.__module__]
    if not hasattr(command, CHOICE):
        sys.exit(
            "flower-superlink of this version asks for passwords in another way. Install flwr as in constraints.txt."
        )
    setattr(command, CHOICE, lambda: OwnCommandsOnly(secret))
    flower_superlink()


if __name__ == "__main__":
    main()
