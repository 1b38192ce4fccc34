"""Bytes that are filled once and sealed, without the zeros that Python would write before."""

import ctypes
import weakref

_allocate = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


class Unwritten:
    """A bytes object that nobody has yet, and a view to fill it through.

    Python's C interface allows just this: PyBytes_FromStringAndSize(NULL, size) gives bytes without content, which may
    be written through PyBytes_AsString as long as nobody else has them (docs.python.org/3/c-api/bytes.html).
    """

    def __init__(self, size: int) -> None:
        self._bytes: bytes = _allocate(None, size)
        memory = (ctypes.c_char * size).from_address(_address(self._bytes))
        memory.owner = self._bytes  # type: ignore[attr-defined]  # whoever keeps a view keeps its memory
        self._memory = weakref.ref(memory)  # it lives as long as a view of it
        self.view = memoryview(memory).cast("B")

    def seal(self) -> bytes:
        """Give the bytes; nobody can write to them any more.

        Raises:
            BufferError: somebody keeps a view, and could.
        """
        del self.view
        if self._memory() is not None:
            raise BufferError("bytes cannot be sealed while something still shows them")
        return self._bytes
