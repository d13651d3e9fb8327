"""VCR: questions about people and things in film scenes, with reasons.

Reads `{train,val,test}.jsonl` and, beside each picture in `vcr1images/`, the metadata file with its
boxes. One question becomes up to three views of it and two multiple-choice questions:

- `reasoning-all`: the lead-in lists every region; question, answer, "why?", rationale;
- `reasoning-single`, `reasoning-multi`: the question introduces its own region (or regions), and
  the answer speaks of no other; the rationale follows only if it speaks of no other either;
- `choice`: four answers, and four rationales after the right answer. Where labels are not
  published (test), only the answers, without the right one.

Texts come from the token lists, whose mentions are lists of 0-based object indices: the `*_orig`
texts count from 1 and look like ordinary numbers ("2 people").

Source: visualcommonsense.com annotation README; GPT4RoI `gpt4roi/datasets/vcr.py` for the three
views (its off-by-one, and its taking of ordinary numbers for objects, are kept for `--faithful`
only: `vcr_faithful.py`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import Int64, decode_record
from pipelines.draft import (
    Built,
    DatasetSpec,
    Draft,
    Licence,
    OfficialCounts,
    OpenSource,
    Picture,
    SourceOptions,
)
from pipelines.images import image_roots
from pipelines.phrasing import enumerated
from pipelines.rejections import reject
from pipelines.source import missing_files, require_folder
from pipelines.vcr_faithful import Originals, View, all_view, listed, own_view
from pipelines.vcr_read import PICTURES, Payload, read_split
from pipelines.vcr_scene import Scene, read_scene
from pipelines.vcr_text import Tokens, detokenise, mentions_in
from roikit.mentions import mention
from roikit.sample import Choice, Conversation, Rejection, Source, Task, Turn

_EXPECTS = ("train.jsonl", "val.jsonl", "test.jsonl", f"{PICTURES}/")
_SPLITS = ("train", "val", "test")
_TASKS: dict[str, Task] = {
    "all": "reasoning-all",
    "single": "reasoning-single",
    "multi": "reasoning-multi",
}
_CLASS_WORD = re.compile(r"\w")


class _Question(msgspec.Struct, gc=False):
    annot_id: str
    objects: list[str]
    question: Tokens
    answer_choices: list[Tokens]
    rationale_choices: list[Tokens]
    answer_label: Int64 | None = None
    rationale_label: Int64 | None = None
    #: Numbered from 1. Read for `--faithful` only.
    question_orig: str | None = None
    answer_orig: str | None = None
    rationale_orig: str | None = None


_questions = msgspec.json.Decoder(_Question)


#: Source: the dataset's own page; a record is a question. Those of images are commonly cited.
_OFFICIAL = {
    "train": OfficialCounts(images=80_418, records=212_923),
    "val": OfficialCounts(images=9_929, records=26_534),
    "test": OfficialCounts(images=9_557, records=25_263),
}


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find VCR's files below `source`.

    Raises:
        UsageError: no such folder, or none of the three `.jsonl` files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source / PICTURES, source), extra_roots)
    splits = {
        name: partial(read_split, source, name, roots)
        for name in _SPLITS
        if (source / f"{name}.jsonl").is_file()
    }
    if not splits:
        raise missing_files(source, SPEC.title, _EXPECTS)
    return OpenSource(folder=source, roots=roots, splits=splits, official=_OFFICIAL)


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's questions into conversations."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    scene = read_scene(draft, payload, picture, built)
    if isinstance(scene, Rejection):
        built.rejections.append(scene)
        return built
    for number, line in payload.lines:
        record = f"line {number}"
        question = decode_record(
            _questions, line, file=draft.source_file, record=record, native_id=draft.native_id
        )
        if isinstance(question, Rejection):
            built.rejections.append(question)
            continue
        record = question.annot_id
        conversations = _conversations(question, scene, draft, picture, built)
        if isinstance(conversations, Rejection):
            built.rejections.append(conversations)
            continue
        built.conversations.extend(conversations)
        built.num_converted += 1
    built.regions = scene.regions if built.conversations else []
    return built


def _conversations(
    question: _Question, scene: Scene, draft: Draft, picture: Picture, built: Built
) -> list[Conversation] | Rejection:
    """Make a question's views and choices, or say why it cannot be used at all."""
    where = {
        "file": draft.source_file,
        "record": question.annot_id,
        "native_id": draft.native_id,
    }
    if len(question.objects) != len(scene.numbers):
        message = (
            f"{len(question.objects)} objects, but the metadata has {len(scene.numbers)} boxes"
        )
        return reject("E_COUNT_MISMATCH", message, **where)
    steps = (
        ("answer", question.answer_choices, question.answer_label),
        ("rationale", question.rationale_choices, question.rationale_label),
    )
    for step, options, label in steps:
        if len(options) < 2 or (label is not None and not 0 <= label < len(options)):
            message = f"{step}_label {label} of {len(options)} options"
            return reject("E_VALUE_RANGE", message, **where)
    asked = _text(question.question, "question", scene, where)
    if isinstance(asked, Rejection):
        return asked
    maker = _Maker(question=question, scene=scene, draft=draft, picture=picture, asked=asked)
    conversations: list[Conversation] = []
    answer: str | None = None
    if question.answer_label is not None and question.rationale_label is not None:
        right = []
        for step, options, label in steps:
            assert label is not None
            text = _text(options[label], f"{step}_choices[{label}]", scene, where)
            if isinstance(text, Rejection):
                return text
            right.append(text)
        answer, rationale = right
        if picture.is_faithful:
            views = _faithful_views(maker, where, built)
            if isinstance(views, Rejection):
                return views
            conversations += views
        else:
            conversations += maker.views(answer, rationale)
    conversations += _choices(maker, steps, answer, where, built)
    if not conversations:
        # The lists of options are all that test has; each bad one was rejected above.
        return reject("E_REF_NO_ANNOTATION", "no usable options", **where)
    return conversations


def _faithful_views(
    maker: "_Maker", where: dict[str, str], built: Built
) -> list[Conversation] | Rejection:
    """Make the views as the reference does; a lost one is noted and costs only itself."""
    question, numbers = maker.question, maker.scene.numbers
    texts = {}
    for field in ("question_orig", "answer_orig", "rationale_orig"):
        text = getattr(question, field)
        if text is None:
            return reject("E_FIELD_MISSING", f"`{field}`, which `--faithful` reads", **where)
        if not _CLASS_WORD.search(text):
            return reject("E_PHRASE_EMPTY", f"{field}: expected a text, got `{text}`", **where)
        texts[field.removesuffix("_orig")] = text
    originals = Originals(**texts)
    conversations = []
    everything = all_view(originals, question.objects, numbers)
    if isinstance(everything, int):
        message = f"number {everything} in the texts, {len(question.objects)} objects"
        built.rejections.append(reject("E_NUMBER_LOST", message, **where))
    else:
        conversations.append(maker.faithful(everything))
    own = own_view(originals, question.objects, numbers)
    if own is not None:
        conversations.append(maker.faithful(own))
    return conversations


def _choices(
    maker: "_Maker",
    steps: Sequence[tuple[str, list[Tokens], int | None]],
    answer: str | None,
    where: dict[str, str],
    built: Built,
) -> list[Conversation]:
    """Make the multiple-choice questions; one with a bad option costs itself, not the views."""
    conversations = []
    for step, options, label in steps:
        if step == "rationale" and answer is None:
            continue  # which rationale fits depends on the right answer, which is not published
        texts = [
            _text(option, f"{step}_choices[{i}]", maker.scene, where)
            for i, option in enumerate(options)
        ]
        bad = [text for text in texts if isinstance(text, Rejection)]
        built.rejections.extend(bad)
        if not bad:
            good = tuple(text for text in texts if isinstance(text, str))
            conversations.append(maker.choice(step, good, label, answer))
    return conversations


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maker:
    """Makes the conversations of one question."""

    question: _Question
    scene: Scene
    draft: Draft
    picture: Picture
    asked: str  #: the question's text, with mentions

    def views(self, answer: str, rationale: str) -> list[Conversation]:
        """Make the views that the question has."""
        turns = (self._lead_in("all"), _said(answer), self._why("all"), _said(rationale))
        views = [self._conversation("all", _TASKS["all"], turns)]
        in_question = mentions_in(self.asked)
        in_answer = mentions_in(answer)
        if in_answer and in_answer <= in_question:
            name = "single" if len(in_question) == 1 else "multi"
            own: tuple[Turn, ...] = (Turn(role="user", text=self.asked), _said(answer))
            if mentions_in(rationale) <= in_question:
                own += (self._why(name), _said(rationale))
            views.append(self._conversation(name, _TASKS[name], own))
        return views

    def faithful(self, view: View) -> Conversation:
        """Make a conversation of a view as the reference puts it."""
        first = Turn(role="user", text=view.question)
        if view.name == "all" and self.scene.regions:
            every = range(1, len(self.scene.regions) + 1)
            slots = {"regions": listed(every), "question": view.question}
            place = f"{self.question.annot_id}/all:0"
            first = self.picture.phraser.ask("reasoning-all", place, **slots)
        turns: tuple[Turn, ...] = (first, _said(view.answer))
        if view.rationale is not None:
            turns += (self._why(view.name), _said(view.rationale))
        return self._conversation(view.name, _TASKS[view.name], turns)

    def choice(
        self, step: str, options: tuple[str, ...], label: int | None, answer: str | None
    ) -> Conversation:
        """Make the question that asks for the right one of `options`."""
        name = f"choice-{step}"
        turns: tuple[Turn, ...] = (self._lead_in(name),)
        if step == "rationale":
            assert answer is not None
            turns += (_said(answer), self._why(name))
        choice = Choice(
            question_id=self.question.annot_id,
            step="answer" if step == "answer" else "rationale",
            options=options,
            answer=label,
        )
        return self._conversation(name, "choice", turns, choice)

    def _conversation(
        self, view: str, task: Task, turns: tuple[Turn, ...], choice: Choice | None = None
    ) -> Conversation:
        return Conversation(
            id=f"{self.question.annot_id}/{view}",
            task=task,
            independent=False,
            source=Source(file=self.draft.source_file, record=self.question.annot_id),
            turns=turns,
            choice=choice,
        )

    def _lead_in(self, view: str) -> Turn:
        if not self.scene.regions:
            return Turn(role="user", text=self.asked)
        place = f"{self.question.annot_id}/{view}:0"
        slots = {"regions": self.scene.listed, "question": self.asked}
        return self.picture.phraser.ask("reasoning-all", place, **slots)

    def _why(self, view: str) -> Turn:
        return self.picture.phraser.ask("why", f"{self.question.annot_id}/{view}:2")


def _said(text: str) -> Turn:
    return Turn(role="assistant", text=text)


def _text(tokens: Tokens, field: str, scene: Scene, where: dict[str, str]) -> str | Rejection:
    """Make the record's text of a token list."""
    parts: list[str | None] = []
    spoken: list[str] = []
    for i, token in enumerate(tokens):
        if isinstance(token, str):
            parts.append(token)
            continue
        numbers = []
        for index in token:
            number = scene.numbers[index] if 0 <= index < len(scene.numbers) else None
            if number is None:
                known = 0 <= index < len(scene.numbers)
                what = "has no usable box" if known else f"is none of {len(scene.numbers)}"
                message = f"{field}[{i}]: object {index} {what}"
                return reject("E_REF_NO_ANNOTATION", message, **where)
            numbers.append(mention(number))
        if not numbers:
            message = f"{field}[{i}]: expected object indices, got an empty list"
            return reject("E_FIELD_TYPE", message, **where)
        parts.append(None)
        spoken.append(enumerated(list(dict.fromkeys(numbers))))
    text = detokenise(parts, spoken)
    if not _CLASS_WORD.search(text):
        return reject("E_PHRASE_EMPTY", f"{field}: expected a text, got `{text}`", **where)
    return text


SPEC = DatasetSpec(
    name="vcr",
    title="VCR",
    version=1,
    expects=_EXPECTS,
    families=("reasoning-all", "why"),
    open_source=open_source,
    build=build,
    options=("faithful",),
    # Source: GPT4RoI `gpt4roi/configs/stage2.py`; visualcommonsense.com, dataset licence agreement.
    stage="2",
    licence=Licence(
        annotations="VCR's agreement: research, not commercial",
        pictures="the same; film frames, not to be passed on",
    ),
    registration="agreement at visualcommonsense.com, for annotations and pictures",
    published=_OFFICIAL,
)
