"""Arrays to Flower records, and Flower records to byte frames: the same encoding in simulation and deployment."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

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
    """Encode arrays as Flower does (one .npy each), with a single copy of their bytes.

    An array that shows the bytes of a .npy, as `arrays_from_record` and `write_array` give it, is not copied.
    """
    record = ArrayRecord()  # ArrayRecord(a dictionary) would make each Array a second time
    for name, array in arrays.items():
        record[name] = _encode(array)
    return record


def write_array(
    shape: tuple[int, ...], dtype: str, write: Callable[[np.ndarray[Any, Any]], None]
) -> np.ndarray[Any, Any]:
    """Let `write` fill an array in the very bytes that will travel, and give it read-only.

    Raises:
        BufferError: `write` kept the array, and could change it later.
    """
    header = _npy_header(dtype, shape)
    with BytesIO(bytes(len(header) + np.dtype(dtype).itemsize * math.prod(shape))) as stream:
        stream.write(header)
        write(_elements(stream.getbuffer(), dtype, shape))
        return _elements(stream.getvalue(), dtype, shape)


def arrays_from_record(record: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    """Decode arrays as read-only views on the record's bytes: nothing is copied.

    Raises:
        ValueError: an array is of another kind, dtype or length than it says.
    """
    return {name: _decode(array) for name, array in record.items()}


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


def _encode(array: np.ndarray[Any, Any]) -> Array:
    dtype, shape = str(array.dtype), array.shape
    payload = _shown_by(array, dtype)
    if payload is None:
        elements = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        payload = b"".join((_npy_header(dtype, shape), elements))
    return _array(dtype=dtype, shape=shape, stype=NUMPY_STYPE, data=payload)


def _array(**fields: Any) -> Array:
    """Make an Array of fields of the right types.

    Flower's constructor (flwr 1.41) finds out first which of three forms it is given, and takes as long as it takes to
    copy 50 KB.
    """
    array = Array.__new__(Array)
    array.__dict__.update(fields)
    return array


def _shown_by(array: np.ndarray[Any, Any], dtype: str) -> bytes | None:
    """Give the .npy of which an array shows all elements as they are, if there is one."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    header = _npy_header(dtype, array.shape)
    if not isinstance(owner, bytes) or len(owner) != len(header) + array.nbytes or not owner.startswith(header):
        return None
    whole = _elements(owner, dtype, array.shape)
    return owner if array.__array_interface__ == whole.__array_interface__ else None


def _decode(array: Array) -> np.ndarray[Any, Any]:
    if array.stype != NUMPY_STYPE or array.dtype not in ACCEPTED_DTYPES:
        raise ValueError("an array is neither float32 nor float16, or is not stored as .npy")
    header = _npy_header(array.dtype, array.shape)
    if not array.data.startswith(header):
        raise ValueError("an array is not of the form that its description says")
    if len(array.data) != len(header) + np.dtype(array.dtype).itemsize * math.prod(array.shape):
        raise ValueError("an array is longer or shorter than its description says")
    return _elements(array.data, array.dtype, array.shape)


def _elements(npy: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Show the elements of a .npy, without a copy."""
    return np.frombuffer(npy, dtype, offset=len(_npy_header(dtype, shape))).reshape(shape)


@lru_cache(maxsize=1024)  # a model's arrays come again with each message, and numpy takes 20 µs to write a header
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Write what stands before an array's elements in a .npy file of version 1.0, as numpy does."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return header.getvalue()


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
