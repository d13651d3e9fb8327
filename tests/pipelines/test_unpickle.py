import pickle
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.unpickle import PickledArray, read_pickle
from roikit.errors import UsageError

PLAIN = [{"id": 7, "text": "café", "spans": [(0, 4), [1.5, None, True]]}]
ARRAYS = [
    np.arange(10, dtype="f4").reshape(2, 5),
    np.asfortranarray(np.eye(3))[:, :2],
    np.empty((0, 4), dtype="i4"),
]


class Evil:
    def __reduce__(self) -> Any:
        return subprocess.check_call, (["true"],)


def write(path: Path, value: Any, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_and_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    assert read_pickle(write(tmp_path / "a.p", PLAIN, protocol)) == PLAIN
    arrays = read_pickle(write(tmp_path / "b.p", ARRAYS, protocol))
    for array, read in zip(ARRAYS, arrays, strict=True):
        assert isinstance(read, PickledArray)
        np.testing.assert_array_equal(read.numpy(), array)
        assert read.numpy().dtype == array.dtype
    assert read_pickle(write(tmp_path / "c.p", [np.float32(2.5), np.int64(3)], protocol)) == [
        2.5,
        3,
    ]


def test_text_of_python_2_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.p"
    path.write_bytes(b"(lp0\nS'left guy'\np1\naS'caf\\xe9'\np2\na.")
    assert read_pickle(path) == ["left guy", "café"]


@pytest.mark.parametrize("value", [Evil(), print, Path("a"), np.array([PLAIN], dtype=object)])
def test_nothing_else_comes_out(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="plain data"):
        read_pickle(write(tmp_path / "a.p", value, 4))


def test_damage_is_one_clear_line(tmp_path: Path) -> None:
    whole = [pickle.dumps([PLAIN, ARRAYS], protocol=protocol) for protocol in range(6)]
    path = tmp_path / "a.p"
    rng = random.Random(0)
    num_refused = 0
    for i in range(1500):
        data = bytearray(whole[i % 6])
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if i % 5 == 0 else data)
        try:
            read_pickle(path)
        except UsageError as error:
            num_refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert num_refused > 1000


def test_a_message_is_one_short_line_whatever_the_pickle_asks_for(tmp_path: Path) -> None:
    for data in (b"c" + b"m" * 5000 + b"\nna\x1bme\n.", b"cos\n" + b"n" * 5000 + b"\n."):
        path = tmp_path / "refs.p"
        path.write_bytes(data)
        with pytest.raises(UsageError, match="it asks for") as caught:
            read_pickle(path)
        assert len(str(caught.value)) < 300 + len(str(path))
        assert str(caught.value).isprintable()
