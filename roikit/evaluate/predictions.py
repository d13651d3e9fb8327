"""Another system's answers, read from a file and scored by the same code (`--predictions FILE`).

JSON Lines, or one JSON list, of objects:

    {"item": ID, "answer": TEXT}                     a region's name or caption
    {"image_id": ID, "caption": TEXT}                the same, as COCO caption results spell it
    {"item": ID, "step": "answer" | "rationale",     a multiple-choice step, with
     "choice": 0-based index or letter               the pick itself, or
     "scores": [number, ...]}                        a score for each option, the higher the better

ID is roikit's (`vg-test-000000042#3`) or the dataset's own (a region's or annotation's id; VCR's
annot_id). An item without an answer is an error: an empty text says that a system gave none.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from roikit.errors import UsageError
from roikit.evaluate.choice import ChoiceAnswer
from roikit.evaluate.items import ChoiceStep, Item, Question, RegionItem
from roikit.mentions import escape
from roikit.prompt import Prompt


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    item: str | int | None = None
    image_id: str | int | None = None
    answer: str | None = None
    caption: str | None = None
    step: str | None = None
    choice: int | str | None = None
    scores: tuple[float, ...] | None = None


class Predictions:
    """A file of answers, standing where a model would."""

    needs_pictures = False

    def __init__(self, path: Path, rows: dict[tuple[str, str | None], _Row], sha256: str) -> None:
        self.path = path
        self.sha256 = sha256  #: of the file's bytes
        self._rows = rows
        self._used: dict[tuple[str, str | None], str] = {}  #: row to the item it answered

    @property
    def num_unused(self) -> int:
        """Rows that answered no item so far."""
        return len(self._rows) - len(self._used)

    def _find(self, item: Item, step: str | None) -> _Row:
        for name in (item.id, item.native_id):
            if name is None or (name, step) not in self._rows:
                continue
            owner = self._used.setdefault((name, step), item.id)
            if owner != item.id:
                raise UsageError(
                    f"`{self.path}`: `{name}` names both {owner} and {item.id}",
                    hint="give these items by roikit's ids",
                )
            return self._rows[name, step]
        of_step = f" (step `{step}`)" if step else ""
        native = (
            f", the dataset's `{item.native_id}`" if item.native_id not in (None, item.id) else ""
        )
        raise UsageError(
            f"`{self.path}`: expected an answer to every item, got none for "
            f"`{item.id}`{of_step}{native}",
            hint="write an empty answer where a system gave none",
        )

    def describe(
        self, items: Sequence[RegionItem], prompts: Sequence[Prompt], max_new_tokens: int
    ) -> list[str]:
        """Return the file's text for each item, escaped to record text."""
        answers = []
        for item in items:
            row = self._find(item, None)
            text = row.answer if row.answer is not None else row.caption
            if text is None:
                raise UsageError(f"`{self.path}`: {item.id}: expected `answer` or `caption`")
            answers.append(escape(text))
        return answers

    def choose(
        self,
        steps: Sequence[tuple[Question, ChoiceStep]],
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> list[ChoiceAnswer]:
        """Return the file's pick for each step."""
        return [
            ChoiceAnswer(choice=self._pick(question, step, self._find(question, step.step)))
            for question, step in steps
        ]

    def _pick(self, question: Question, step: ChoiceStep, row: _Row) -> int:
        where = f"`{self.path}`: {question.id} (step `{step.step}`)"
        num_options = len(step.options)
        if row.scores is not None:
            if len(row.scores) != num_options or any(map(math.isnan, row.scores)):
                raise UsageError(f"{where}: expected {num_options} scores, got {list(row.scores)}")
            # np.argmax and the like: a file's own ties are its author's affair
            return max(range(num_options), key=row.scores.__getitem__)
        choice = row.choice
        if isinstance(choice, str) and len(choice) == 1 and choice.isascii() and choice.isupper():
            choice = ord(choice) - ord("A")
        if not isinstance(choice, int) or not 0 <= choice < num_options:
            raise UsageError(
                f"{where}: expected `scores`, or `choice` as 0 to {num_options - 1} or a letter, "
                f"got {row.choice!r}"
            )
        return choice


def read_predictions(path: Path) -> Predictions:
    """Read a file of answers.

    Raises:
        UsageError: no such file, not the format of this module, or two answers to one item.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"`{path}`: expected a file of predictions, {error.strerror}") from error
    rows: dict[tuple[str, str | None], _Row] = {}
    for where, value in _values(path, data):
        try:
            row = msgspec.convert(value, _Row)
        except msgspec.ValidationError as error:
            raise UsageError(f"`{path}`: {where}: {error}") from error
        name = row.item if row.item is not None else row.image_id
        if name is None:
            raise UsageError(f"`{path}`: {where}: expected `item` or `image_id`")
        key = (str(name), row.step)
        if key in rows:
            raise UsageError(f"`{path}`: {where}: a second answer to `{name}`")
        rows[key] = row
    return Predictions(path, rows, hashlib.sha256(data).hexdigest())


def _values(path: Path, data: bytes) -> list[tuple[str, Any]]:
    where = "the file"
    try:
        if data.lstrip().startswith(b"["):
            return [(f"[{i}]", value) for i, value in enumerate(msgspec.json.decode(data))]
        values = []
        for number, line in enumerate(data.splitlines(), start=1):
            where = f"line {number}"
            if line.strip():
                values.append((where, msgspec.json.decode(line)))
    except msgspec.DecodeError as error:
        raise UsageError(f"`{path}`: {where}: expected JSON, {error}") from error
    if not values:
        raise UsageError(f"`{path}`: expected predictions, got an empty file")
    return values
