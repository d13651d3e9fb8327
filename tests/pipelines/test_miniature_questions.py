"""VCR-like questions: labels are right, wrong options wrong, and text alone gives nothing away."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from pipelines.miniature import make_miniature, read_scenes, scenes_by_file
from pipelines.miniature_questions import KINDS, Question, Tally, ask
from pipelines.miniature_scene import Scene, build_scene
from pipelines.miniature_statements import Tokens, bracketed, original_text, statement_is_true

Asked = tuple[Scene, Question]


def _ask(seed: int, count: int, *, is_evaluation: bool) -> list[Asked]:
    """Questions about `count` scenes, balanced in batches as `make_miniature` does it."""
    asked: list[Asked] = []
    tally = Tally()
    for index in range(count):
        if index % 64 == 0:
            tally = Tally()
        scene = build_scene(
            seed,
            index,
            is_evaluation=is_evaluation,
            is_close_up=False,
            image_wh=(128, 128),
            num_things=(3, 6),
        )
        asked += [(scene, q) for q in ask(scene, random.Random(f"{seed}/{index}"), tally, 3)]
    return asked


@pytest.fixture(scope="module")
def train() -> list[Asked]:
    return _ask(1, 960, is_evaluation=False)


@pytest.fixture(scope="module")
def held() -> list[Asked]:
    return _ask(2, 512, is_evaluation=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vcr") / "world"
    make_miniature(out, images=96, seed=3, workers=1, shares={"vcr": 1.0}, evaluation=0.3)
    return out


def test_exactly_one_option_is_true(train: list[Asked], held: list[Asked]) -> None:
    for scene, question in train + held:
        for options, label in (
            (question.answers, question.answer_label),
            (question.rationales, question.rationale_label),
        ):
            assert len(set(options)) == 4
            truth = [statement_is_true(scene, option) for option in options]
            assert truth == [k == label for k in range(4)], (question, scene)


def test_every_kind_is_asked_and_its_right_answers_are_balanced(train: list[Asked]) -> None:
    values = Counter((question.kind, question.value) for _, question in train)
    for kind, expected in KINDS.items():
        counts = [values[kind, value] for value in expected]
        assert min(counts) > 0, kind
        # some counts (four of one colour) are rare, and balance is kept batch by batch
        assert max(counts) <= (2.5 if kind == "count" else 1.5) * min(counts), (kind, counts)


def test_labels_are_spread_over_the_four_places(train: list[Asked]) -> None:
    for label in ("answer_label", "rationale_label"):
        counts = Counter(getattr(question, label) for _, question in train)
        assert max(counts.values()) < 0.28 * len(train)


@pytest.mark.parametrize("step", ["answer", "rationale"])
def test_a_reader_of_the_text_alone_stays_near_chance(
    train: list[Asked], held: list[Asked], step: str
) -> None:
    # naive Bayes on an option's words, pairs of words and overlap with the others, by kind
    right: Counter[tuple[object, ...]] = Counter()
    wrong: Counter[tuple[object, ...]] = Counter()
    for _, question in train:
        options, label = _options(question, step)
        for k, option in enumerate(options):
            (right if k == label else wrong).update(_features(question.kind, option, options))
    hits = 0
    for _, question in held:
        options, label = _options(question, step)
        scores = [
            sum(
                math.log((right[feature] + 1) / (wrong[feature] + 3))
                for feature in sorted(_features(question.kind, option, options), key=str)
            )
            for option in options
        ]
        hits += scores.index(max(scores)) == label
    assert 0.18 < hits / len(held) < 0.32


def _options(question: Question, step: str) -> tuple[tuple[Tokens, ...], int]:
    if step == "answer":
        return question.answers, question.answer_label
    return question.rationales, question.rationale_label


def _features(kind: str, option: Tokens, options: tuple[Tokens, ...]) -> set[tuple[object, ...]]:
    words = [token if isinstance(token, str) else "@" for token in option]
    found: set[tuple[object, ...]] = {(kind, " ".join(words))}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        found |= {(kind, word), (kind, word, following)}
        found.add((kind, "shared by", sum(word in other for other in options)))
    return found | {(kind, "object", t) for t in option if not isinstance(t, str)}


def test_answers_mention_objects_in_part(train: list[Asked]) -> None:
    mentions = [
        any(not isinstance(token, str) for token in question.answers[question.answer_label])
        for _, question in train
    ]
    assert 0.7 < sum(mentions) / len(mentions) < 1


def test_records_have_the_official_fields(world: Path) -> None:
    scenes = scenes_by_file(world, "vcr")
    for split in ("train", "val", "test"):
        lines = (world / "vcr" / f"{split}.jsonl").read_text().splitlines()
        assert lines
        for line in lines:
            record = json.loads(line)
            scene = scenes[record["img_fn"]]
            assert record["annot_id"].startswith(f"{split}-")
            assert record["objects"] == [thing.shape for thing in scene.things]
            assert len(record["answer_choices"]) == len(record["rationale_choices"]) == 4
            assert isinstance(record["question"], list)
            assert ("answer_label" in record) == (split != "test")
            hidden = [key for key in record if key.endswith(("_label", "_iter", "_sources"))]
            assert bool(hidden) == (split != "test")
            metadata = json.loads((world / "vcr/vcr1images" / record["metadata_fn"]).read_text())
            assert set(metadata) == {"boxes", "segms", "names", "width", "height"}
            assert len(metadata["boxes"]) == len(metadata["segms"]) == len(record["objects"])
            for box, polygons, thing in zip(
                metadata["boxes"], metadata["segms"], scene.things, strict=True
            ):
                assert box[:4] == list(thing.box_xyxy)
                assert 0.9 <= box[4] <= 1
                assert all(len(point) == 2 for polygon in polygons for point in polygon)
            assert (world / "vcr/vcr1images" / record["img_fn"]).is_file()


def test_written_labels_are_true_of_the_scene(world: Path) -> None:
    scenes = scenes_by_file(world, "vcr")
    ids = []
    for split in ("train", "val"):
        for line in (world / "vcr" / f"{split}.jsonl").read_text().splitlines():
            record = json.loads(line)
            ids.append(record["annot_id"])
            for step in ("answer", "rationale"):
                options, label = record[f"{step}_choices"], record[f"{step}_label"]
                truth = [statement_is_true(scenes[record["img_fn"]], o) for o in options]
                assert truth == [k == label for k in range(4)]
                assert record[f"{step}_match_iter"][label] == 0
                assert record[f"{step}_orig"] == original_text(options[label])
    assert len(set(ids)) == len(ids)
    said = {s.id for scene in read_scenes(world) for s in scene.statements}
    assert set(ids) <= said


def test_a_movie_lies_in_one_split(world: Path) -> None:
    splits: dict[str, set[str]] = {}
    for scene in read_scenes(world):
        place = scene.places["vcr"]
        splits.setdefault(place.file.split("/")[0], set()).add(place.split)
    assert all(len(found) == 1 for found in splits.values())
    assert any(name.startswith("lsmdc_") for name in splits)
    assert any(name.startswith("movieclips_") for name in splits)


def test_texts_count_objects_from_one_and_token_lists_from_zero() -> None:
    tokens: Tokens = ("What", "do", (0, 2, 3), "and", (1,), "have", "in", "common", "?")
    assert original_text(tokens) == "What do 1, 3 and 4 and 2 have in common?"
    assert bracketed(tokens) == "What do [0,2,3] and [1] have in common?"


@pytest.mark.parametrize(
    "tokens", [[], ["."], [[9], "is", "red"], [[0], "[1]"], ["so", "what"], [[0], [0], [0]]]
)
def test_what_cannot_be_read_is_not_true(train: list[Asked], tokens: list[object]) -> None:
    assert not statement_is_true(train[0][0], tokens)  # type: ignore[arg-type]
