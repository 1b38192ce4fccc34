"""A signature holds for exactly what was signed, however a transport orders it, and for nothing else."""

import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from shared.errors import StorageError
from shared.messages import Answer, TrainReply, decode_answer, encode_answer
from shared.signing import RECORD, Purpose, SigningKey, fingerprint, is_endorsed, signed_digest
from shared.wire import from_frames, to_frames


def signed(key: SigningKey, *, task_id: str = "t") -> RecordDict:
    update = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.float32)}
    reply = TrainReply(
        update=update, loss_by_epoch=(0.1 + 0.2, 1e-300), update_norm=3.0, images_per_second=1, seconds=2
    )
    content = encode_answer(Answer(task_id=task_id, reply=reply))
    key.sign(content, Purpose.REPLY)
    return content


def is_signed_by(content: RecordDict, public: str) -> bool:
    return signed_digest(content, public, Purpose.REPLY) is not None


def test_what_was_signed_is_known_after_frames_and_flowers_own_encoding() -> None:
    """The signature survives both ways of travelling, and the answer is read beside it."""
    key = SigningKey.draw()
    content = signed(key)
    for arrived in (from_frames(to_frames(content)), recorddict_from_proto(recorddict_to_proto(content))):
        assert is_signed_by(arrived, key.public)
        assert decode_answer(arrived).task_id == "t"


def test_the_order_of_keys_does_not_matter() -> None:
    """A transport may give a record's keys in another order."""
    key = SigningKey.draw()
    content = signed(key)
    for name in ("metrics", "state"):
        record = content[name]
        content[name] = type(record)(dict(reversed(list(record.items()))))  # type: ignore[arg-type]
    assert is_signed_by(content, key.public)


def test_any_change_is_seen() -> None:
    """Another bit of an array, another figure, id or record, an array's name, or another key: none is accepted."""
    key = SigningKey.draw()
    forged = [signed(key) for _ in range(6)]
    (array,) = forged[0].array_records["arrays"].values()
    array.data = array.data[:-1] + b"\x01"
    forged[1].metric_records["metrics"]["update_norm"] = 4.0
    forged[2].config_records["state"]["task_id"] = "u"
    forged[3]["more"] = MetricRecord({"x": 1})
    arrays = forged[4].array_records["arrays"]
    (title,) = arrays
    arrays[title.replace("w", "v")] = arrays.pop(title)
    forged[5][RECORD] = signed(key, task_id="u")[RECORD]
    assert not any(is_signed_by(content, key.public) for content in forged)
    assert not is_signed_by(signed(key), SigningKey.draw().public)


@pytest.mark.parametrize("signature", [None, {}, {"ed25519": "zz"}, {"ed25519": 5}, {"ed25519": "00" * 64}])
def test_what_is_no_signature_is_refused(signature: dict[str, str] | None) -> None:
    """Missing, empty, not hexadecimal, of another type, or nobody's; and a public key that is none."""
    key = SigningKey.draw()
    content = signed(key)
    if signature is None:
        del content[RECORD]
    else:
        content[RECORD] = ConfigRecord(signature)  # type: ignore[arg-type]
    assert not is_signed_by(content, key.public)
    assert not is_signed_by(signed(key), "not a key")


def test_a_signature_means_one_thing() -> None:
    """What was signed as a task is no reply, and the other way round: nothing that was signed can be sent back."""
    key = SigningKey.draw()
    content = signed(key)
    assert signed_digest(content, key.public, Purpose.REPLY)
    assert signed_digest(content, key.public, Purpose.TASK) is None
    key.sign(content, Purpose.TASK)
    assert signed_digest(content, key.public, Purpose.REPLY) is None


def test_both_sides_find_the_same_digest() -> None:
    """What the signer is told of its content is what the reader finds, and the earlier signature is not part of it."""
    key = SigningKey.draw()
    content = signed(key)
    digest = key.sign(content, Purpose.TASK)
    arrived = from_frames(to_frames(content))
    assert signed_digest(arrived, key.public, Purpose.TASK) == digest
    assert SigningKey.draw().sign(arrived, Purpose.REPLY) == digest


def test_a_key_names_its_successor() -> None:
    """The word holds for that key, from that key; a signature over something else is none."""
    old, new, other = SigningKey.draw(), SigningKey.draw(), SigningKey.draw()
    word = old.endorse(new.public)
    assert is_endorsed(new.public, by=old.public, signature=word)
    assert not is_endorsed(other.public, by=old.public, signature=word)
    assert not is_endorsed(new.public, by=other.public, signature=word)
    assert not is_endorsed(new.public, by="", signature="")


def test_a_fingerprint_is_of_the_whole_key() -> None:
    """Five groups of four; another key has another, also where both begin and end alike."""
    key = "ab" * 32
    assert re.fullmatch(r"[0-9a-f]{4}( [0-9a-f]{4}){4}", fingerprint(key))
    assert fingerprint(key[:32] + "ac" + key[34:]) != fingerprint(key)


def test_a_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A file of another kind, or none, is an error that says what makes one."""
    key, path = SigningKey.draw(), tmp_path / "signing.key"
    path.write_bytes(key.pem())
    assert SigningKey.read(path).public == key.public
    assert key.pem().decode().split()[-1] not in repr(key)
    other = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"no key", other):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="site init"):
            SigningKey.read(path)
    with pytest.raises(StorageError, match="site init"):
        SigningKey.read(tmp_path / "none")
