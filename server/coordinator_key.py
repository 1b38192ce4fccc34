"""The coordinator's signing key: every task is signed with it, and every site pins it with its approval."""

from server.coordinator_folder import CoordinatorFolder
from shared.declaration import read_toml
from shared.errors import CoordinatorError, StorageError
from shared.invitation import Succession, write_paper
from shared.signing import SigningKey
from shared.storage import private_file

HINT = (
    "Restore it from a backup, or draw a new one with `polyclinic coordinator key --new`; then `invite` each site "
    "again, and have it approve that."
)


def draw_key(folder: CoordinatorFolder) -> Succession:
    """Draw a new signing key in the place of the present one, which endorses it if it can be read.

    Sites refuse tasks with the new one until they have approved a new invitation.

    Raises:
        StorageError: the folder cannot be written.
    """
    new = SigningKey.draw()
    try:
        before = _read(folder)
    except StorageError:  # the first one, or the old one is lost
        before = None
    folder.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    succession = Succession(
        key=new.public,
        before=before.public if before else "",
        endorsement=before.endorse(new.public) if before else "",
    )
    write_paper(succession, folder.succession)
    with private_file(folder.signing_key) as part:
        part.write_bytes(new.pem())
    return succession


def coordinator_key(folder: CoordinatorFolder) -> SigningKey:
    """Give the key that signs tasks.

    Raises:
        CoordinatorError: it is missing, or another than the one that sites were told of.
        StorageError: it cannot be read.
    """
    succession_of(folder)
    return _read(folder)


def succession_of(folder: CoordinatorFolder) -> Succession:
    """Give the public half of the key, and what the one before it says of it.

    Raises:
        CoordinatorError: there is no key, or its two files do not belong together.
        StorageError: the key cannot be read.
    """
    if not (folder.signing_key.exists() and folder.succession.exists()):
        raise CoordinatorError(
            f"{folder.signing_key}: this coordinator has no key to sign tasks with, or has lost it. {HINT}"
        )
    found = read_toml(folder.succession, Succession, error=CoordinatorError)
    if found.key != _read(folder).public:
        raise CoordinatorError(f"{folder.signing_key}: is not the key that {folder.succession.name} names. {HINT}")
    return found


def _read(folder: CoordinatorFolder) -> SigningKey:
    return SigningKey.read(folder.signing_key, made_by=HINT)
