"""Read a pickle that somebody else made, without running what it says.

REFER's references and GPT4RoI's detections are published as pickles. A pickle is a program; only
numbers, text, lists, dictionaries and arrays of numbers come out of one here. Arrays are put
together by us: numpy's own classes, called with a damaged file's words, can crash the interpreter.
"""

import codecs
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from roikit.errors import UsageError

_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


class _Dtype:
    """A numpy type by its code: `<f4`."""

    def __init__(self, code: str, *_: Any) -> None:
        if str(code).lstrip("<>=|") not in _NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of `{code}`")
        self.code = code.lstrip("<>=|")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class PickledArray:
    """An array of a pickle. `numpy()` gives it, or raises ValueError where it is damaged."""

    _shape: Any = ()
    _dtype: Any = None
    _is_fortran: Any = False
    _data: Any = b""

    def __setstate__(self, state: Any) -> None:
        """Take numpy's (version, shape, type, is Fortran order, bytes)."""
        _, self._shape, self._dtype, self._is_fortran, self._data = state

    def numpy(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the array; a view on the file's bytes, not to be written to.

        Raises:
            ValueError: shape, type and bytes do not belong together.
        """
        if not isinstance(self._dtype, _Dtype):
            raise ValueError("an array without a type")  # noqa: TRY004 (it is the file's fault)
        data = self._data.encode("latin1") if isinstance(self._data, str) else self._data
        try:
            flat = np.frombuffer(data or b"", dtype=self._dtype.numpy())
            return flat.reshape(self._shape, order="F" if self._is_fortran else "C")
        except (TypeError, AttributeError, BufferError) as error:
            raise ValueError(str(error)) from error


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    array = _frombuffer(data, dtype, (), "C").numpy()
    return array.item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec `{encoding}`")
    return codecs.encode(text, "latin1")


def _no_bytes() -> bytes:
    return b""


#: The only names a pickle may call for, numpy's under its old and its new modules, each answered by
#: ours. Through the last two, Python 3 writes bytes that Python 2 can read.
_ANSWERS: dict[tuple[str, str], Any] = {
    (f"numpy.{core}.{module}", name): ours
    for core in ("core", "_core")
    for module, name, ours in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
} | {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


class _Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    # The pure Python one: the C one allocates what a damaged memo index asks for, however much.
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ANSWERS:
            raise pickle.UnpicklingError(
                f"it asks for `{ascii(f'{module[:60]}.{name[:60]}')[1:-1]}`"
            )
        return _ANSWERS[module, name]


def read_pickle(path: Path) -> Any:
    """Read plain data; arrays come as `PickledArray`, numpy's scalars as Python's numbers.

    Python 2's text comes back as `str`, read as Latin-1 (what REFER's own reader does).

    Raises:
        UsageError: the file is missing, damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"`{path}`: cannot be read: {error.strerror or error}") from error
    try:
        return _Unpickler(BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"`{path}`: expected a pickle of plain data, but {error}",
            hint="get the dataset's own file again; nothing in this one was run",
        ) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UsageError(
            f"`{path}`: not a readable pickle ({type(error).__name__}: {str(error)[:100]!a})",
            hint="it may have been cut off while downloading: get it again",
        ) from error
