"""Damage a file the way downloads, editors and enemies do, drawn from one generator.

In: a file's bytes and its name. Out: other bytes. JSON, JSON lines, pickles and XML are damaged
inside their structure as well as bytewise, so that damage gets past the parser and into the
converters.
"""

import contextlib
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

#: What stands where something else was expected.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "\0",
        "\x1b[31m",
        "\ud800",
        "é" * 3,
        "<region1>",
        "<region0>",
        "<image>",
        "a" * 5000,
    ),
    *("../../../outside.jpg", "/etc/passwd", "C:\\x.jpg", "a/../../b.jpg", "con\nnul", "."),
    *(
        [],
        {},
        [[]],
        [None],
        {"": {}},
        [[[[[[]]]]]],
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5, 6, 7],
        "1",
        "nan",
    ),
)
#: What the bytes of a file may get pushed into them.
ODD_BYTES = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"{",
        b"]",
        b'"',
        b",",
        b"\\u",
    ),
    *(
        b"\n\n",
        b"\r",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
        b"&b;",
        b"[/EN#",
        b"]",
        b"\x80\x04",
        b"9" * 5000,
    ),
    *(b"[" * 5000, b"<a>" * 3000),
)
#: Left behind by a pickle that ran code.
CANARY = "roikit-fuzz-canary"
EVIL_PICKLES = (
    b"cposix\nsystem\n(S'touch " + CANARY.encode() + b"'\ntR.",
    b"cbuiltins\nexec\n(S'open(\"" + CANARY.encode() + b'", "w")\'\ntR.',
    b"\x80\x04c__builtin__\neval\n(S'open(\"" + CANARY.encode() + b'", "w")\'\ntR.',
    b"csubprocess\nPopen\n(lp0\nS'touch'\naS'" + CANARY.encode() + b"'\natR.",
    b"cnumpy\nload\n(S'" + CANARY.encode() + b"'\ntR.",
    b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
    b"cnumpy\nndarray\n((I99999999999\nI99999999\ntS'f8'\ntR.",
    b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 64 + b".",  # LONG4 of two gigabytes
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",  # BINBYTES8 of petabytes
    b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
    b"(" * 100_000 + b"t" * 100_000 + b".",
    b"]" + b"".join(b"](h\x00h\x00h\x00h\x00eq\x00" for _ in range(40)) + b".",
)


def mutate(name: str, data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three changes that suit the file `name`."""
    structured = next((fit for tail, fit in _STRUCTURED if name.endswith(tail)), None)
    if structured is not None and rng.random() < 0.7:
        # Once, and first: taking a pickle apart a second time would run what the first put in.
        with contextlib.suppress(ValueError, IndexError, pickle.UnpicklingError, EOFError):
            data = structured(data, rng)
            if rng.random() < 0.6:
                return data
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_BYTEWISE)(data, rng)
    return data


# --- bytes ---


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 16, 400)) :]


def _push(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(ODD_BYTES) + data[place:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 20, 300))]
    return data[:start] + part * rng.choice((2, 3, 50)) + data[start:]


_BYTEWISE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _cut,
    _remove,
    _push,
    _repeat,
)


# --- structure ---


def _json(data: bytes, rng: random.Random) -> bytes:
    return _as_json(_change(json.loads(data), rng), rng)


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    lines[i] = _json(lines[i], rng)
    return b"\n".join(lines)


def _pickle(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        evil = rng.choice(EVIL_PICKLES)
        return evil if rng.random() < 0.5 else data[:-1] + b"0" + evil
    value = _change(pickle.loads(data, encoding="latin-1"), rng)
    return pickle.dumps(value, protocol=rng.randrange(5))


def _xml(data: bytes, rng: random.Random) -> bytes:
    text = data.decode()
    opening = [i for i, c in enumerate(text) if c == ">"]
    i = rng.choice(opening) + 1
    end = text.find("<", i)
    odd = str(rng.choice(ODD)).encode("utf-8", "replace").decode()
    return (text[:i] + odd + text[max(end, i) :]).encode("utf-8", "replace")


_STRUCTURED: tuple[tuple[str, Callable[[bytes, random.Random], bytes]], ...] = (
    (".jsonl", _json_lines),
    (".json", _json),
    (".p", _pickle),
    (".pkl", _pickle),
    (".xml", _xml),
)


def _as_json(value: Any, rng: random.Random) -> bytes:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _change(value: Any, rng: random.Random) -> Any:
    """Walk down a random path and change what lies at its end."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(14):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(("", "id", "iscrowd", "\0", "bbox"))] = rng.choice(ODD)
            case 2:
                changed[key] = rng.choice(list(value.values()))
            case _:
                changed[key] = _change(value[key], rng)
        return changed
    if isinstance(value, list | tuple) and value and rng.random() < 0.93:
        i = rng.randrange(len(value))
        items = list(value)
        match rng.randrange(14):
            case 0:
                del items[i]
            case 1:
                items.insert(i, items[i])
            case 2:
                items.insert(i, rng.choice(ODD))
            case 3:
                items[i] = rng.choice(items)
            case _:
                items[i] = _change(items[i], rng)
        return type(value)(items) if type(value) in (list, tuple) else items
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 1e6, value + 0.25, -1, int(value) + 2**40))
    if isinstance(value, str) and value and rng.random() < 0.4:
        i = rng.randrange(len(value))
        return (
            value[:i]
            + str(rng.choice(("", "\n", "<region1>", "/", "..", "\0", "ß")))
            + value[i + 1 :]
        )
    return rng.choice(ODD)
