"""Arrays to Flower records, and Flower records to byte frames: the same encoding in simulation and deployment."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.packing import PackedArrays, PackedBlock, pack, unpack
from shared.parameters import NamedArrays

MAX_CONTENT_BYTES = 2 << 30
"""Largest content that is put together from frames; a ResNet-50 in fp32 is 94 MB."""

NUMPY_STYPE = "numpy.ndarray"
DOCUMENT_STYPE = "polyclinic.document"
ACCEPTED_DTYPES = frozenset({"float32", "float16"})

RecordKind = TypeVar("RecordKind", ArrayRecord, MetricRecord, ConfigRecord)


class TooLargeError(ValueError):
    """A content announces more bytes than its receiver takes; none of them was read."""


def record_of(arrays: NamedArrays) -> ArrayRecord:
    """Encode arrays as a few Flower arrays (shared/packing.py), with a single copy of their bytes.

    Blocks of arrays that show the bytes of one, as `arrays_from_record` and `packing.write` give them, are not copied.
    """
    record = ArrayRecord()  # ArrayRecord(a dictionary) would make each Array a second time
    for block in pack(arrays).packed:
        record[block.title] = _array(dtype=block.dtype, shape=block.shape, stype=NUMPY_STYPE, data=block.npy)
    return record


def arrays_from_record(record: ArrayRecord) -> PackedArrays:
    """Decode arrays as read-only views on the record's bytes: nothing is copied.

    Raises:
        ValueError: an array is of another kind, dtype or length than it says, or lies elsewhere than it must.
    """
    for block in record.values():
        if block.stype != NUMPY_STYPE or block.dtype not in ACCEPTED_DTYPES:
            raise ValueError("an array is neither float32 nor float16, or is not stored as .npy")
    return unpack(PackedBlock(title, block.dtype, block.shape, block.data) for title, block in record.items())


def documents_record(documents: Mapping[str, bytes]) -> ArrayRecord:
    """Encode files as arrays of bytes, so that they travel in frames of any size, as a model does."""
    record = ArrayRecord()
    for name, text in documents.items():
        record[name] = Array(dtype="uint8", shape=(len(text),), stype=DOCUMENT_STYPE, data=text)
    return record


def documents_from_record(record: ArrayRecord, *, known: Collection[str]) -> dict[str, bytes]:
    """Decode files; their names are among those that are known.

    Raises:
        ValueError: a file has another name, or is no file.
    """
    if not record.keys() <= set(known) or any(item.stype != DOCUMENT_STYPE for item in record.values()):
        raise ValueError("a document has a name or a form that is not known")
    return {name: item.data for name, item in record.items()}


def records_of(content: RecordDict, kind: type[RecordKind]) -> dict[str, RecordKind]:
    """Pick a content's records of one kind.

    What RecordDict's own properties give (`array_records` and its like, flwr 1.41) refers to itself and to the content:
    the arrays would stay in memory until Python's cycle collector happens to run.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _array(**fields: Any) -> Array:
    """Make an Array of fields of the right types.

    Flower's constructor (flwr 1.41) finds out first which of three forms it is given, and takes as long as it takes to
    copy 50 KB.
    """
    array = Array.__new__(Array)
    array.__dict__.update(fields)
    return array


def to_frames(content: RecordDict) -> Iterator[bytes]:
    """Yield a JSON header, then each array's bytes as they are; a transport may cut the latter into smaller frames."""
    array_records = records_of(content, ArrayRecord)
    arrays = [(record, name, array) for record, item in array_records.items() for name, array in item.items()]
    header = {
        "records": list(array_records),  # an empty one has no array to show it
        "arrays": [[r, name, a.dtype, list(a.shape), a.stype, len(a.data)] for r, name, a in arrays],
        "metrics": {name: dict(record.items()) for name, record in records_of(content, MetricRecord).items()},
        "configs": {name: dict(record.items()) for name, record in records_of(content, ConfigRecord).items()},
    }
    yield json.dumps(header).encode()
    for _, _, array in arrays:
        if array.data:  # an empty frame would be one too many: its array takes none
            yield array.data


def from_frames(frames: Iterable[bytes], *, most_bytes: int = MAX_CONTENT_BYTES) -> RecordDict:
    """Put a content together from its frames, however the arrays were cut.

    Raises:
        TooLargeError: the header announces more than `most_bytes`.
        ValueError: the header is not ours, or the frames end early or run over.
    """
    stream = iter(frames)
    try:
        header = json.loads(next(stream))
        entries = [
            (str(r), str(n), str(d), tuple(map(int, s)), str(t), int(size)) for r, n, d, s, t, size in header["arrays"]
        ]
        records = {str(name): ArrayRecord() for name in header["records"]}
        metrics, configs = dict(header["metrics"]), dict(header["configs"])
    except (StopIteration, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError("the first frame is not a header of this encoding") from None
    if any(entry[-1] < 0 for entry in entries):
        raise ValueError("an array has a negative size")
    if sum(entry[-1] for entry in entries) > most_bytes:
        raise TooLargeError("the content is larger than is accepted")
    for record, name, dtype, shape, stype, size in entries:
        array = _array(dtype=dtype, shape=shape, stype=stype, data=_take(stream, size))
        records.setdefault(record, ArrayRecord())[name] = array
    if next(stream, None) is not None:
        raise ValueError("frames go on after the last array")
    return _content(records, metrics, configs)


def _take(stream: Iterator[bytes], size: int) -> bytes:
    """Collect exactly `size` bytes; one frame that holds them all is passed on without a copy."""
    first = next(stream, b"") if size else b""
    if len(first) == size and isinstance(first, bytes):
        return first
    pieces, length = [first], len(first)
    while length < size:
        piece = next(stream, b"")
        if not piece:
            raise ValueError("the frames end within an array")
        pieces.append(piece)
        length += len(piece)
    if length != size:
        raise ValueError("a frame does not end where its array ends")
    return b"".join(pieces)


def _content(records: Mapping[str, ArrayRecord], metrics: Mapping[str, Any], configs: Mapping[str, Any]) -> RecordDict:
    try:
        content = RecordDict(dict(records))
        for name, numbers in metrics.items():
            content[name] = MetricRecord(numbers)
        for name, values in configs.items():
            content[name] = ConfigRecord(values)
    except (TypeError, AttributeError):
        raise ValueError("the header holds a value that no record can hold") from None
    return content
