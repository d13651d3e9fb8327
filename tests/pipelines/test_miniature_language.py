"""The miniature world's captions and phrases are true, and what is false is found out."""

import itertools
import random

import pytest

from pipelines.miniature import make_miniature, read_scenes
from pipelines.miniature_language import (
    Description,
    caption_attributes,
    caption_is_true,
    close_up_captions,
    describe,
    is_caption_right,
    read_relation,
    relation_is_true,
    scene_captions,
)
from pipelines.miniature_scene import Scene, Thing, build_scene, clear_pairs, holds, relation


def _thing(shape: str, colour: str, box: tuple[float, float, float, float]) -> Thing:
    return Thing(
        shape=shape,
        colour=colour,
        size="large" if box[2] - box[0] > 33 else "small",
        pattern="plain",
        box_xyxy=box,
        angle=0.0,
        is_held_out=False,
    )


@pytest.fixture
def scene() -> Scene:
    """A red circle upper left, a large blue star right of it, a green moon below it."""
    return Scene(
        index=0,
        is_evaluation=False,
        is_close_up=False,
        width=128,
        height=128,
        background="plain",
        things=(
            _thing("circle", "red", (10, 10, 34, 34)),
            _thing("star", "blue", (80, 4, 120, 44)),
            _thing("moon", "green", (10, 90, 34, 114)),
        ),
    )


def _scenes(count: int, *, is_evaluation: bool = False, is_close_up: bool = False) -> list[Scene]:
    return [
        build_scene(1, i, is_evaluation=is_evaluation, is_close_up=is_close_up, image_wh=(128, 128))
        for i in range(count)
    ]


def test_every_scene_caption_is_true_of_its_scene_and_not_of_others() -> None:
    scenes = _scenes(80, is_evaluation=True)
    false, total = 0, 0
    for scene, other in itertools.pairwise(scenes):
        captions = scene_captions(scene, random.Random(scene.index))
        assert len(captions) == 5
        for kind, text, about in captions:
            assert caption_is_true(scene, text), text
            assert about
            if kind == "list":
                false += not caption_is_true(other, text)
                total += 1
    assert false == total


def test_close_up_captions_go_from_the_name_to_all_attributes() -> None:
    for scene in _scenes(20, is_close_up=True):
        texts = [text for _, text, _ in close_up_captions(scene)]
        assert texts[0] == scene.things[0].shape
        assert is_caption_right(texts[4], scene.things[0])
        assert all(caption_is_true(scene, text) for text in texts)


def test_region_phrases_of_a_written_world_are_true(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = tmp_path_factory.mktemp("world") / "vg"
    make_miniature(out, images=320, seed=2, workers=1, shares={"vg": 1.0})
    kinds = {"attributes": 0, "relation": 0}
    for scene in read_scenes(out):
        for said in scene.statements:
            kinds[said.kind] += 1
            if said.kind == "relation":
                assert relation_is_true(scene, said.text)
                stated = read_relation(said.text)
                assert stated is not None
                assert stated.subject.fits(scene.things[said.about[0]])
                assert stated.other.fits(scene.things[said.about[1]])
            else:
                assert is_caption_right(said.text, scene.things[said.about[0]])
                assert said.text == describe(scene.things[said.about[0]])
    assert kinds["relation"] / sum(kinds.values()) == pytest.approx(0.25, abs=0.03)


def test_caption_attributes_reads_the_first_object() -> None:
    said = caption_attributes("A small red plain circle left of the large blue star.")
    assert said == Description(size="small", colour="red", pattern="plain", shape="circle")
    assert caption_attributes("an orange arrow") == Description(colour="orange", shape="arrow")
    assert caption_attributes("") == Description()


def test_naming_everything_is_not_right(scene: Scene) -> None:
    thing = scene.things[0]
    assert is_caption_right("small red plain circle", thing)
    assert not is_caption_right("red circle", thing)
    assert not is_caption_right("small large red plain circle", thing)
    assert not is_caption_right("small red blue plain circle", thing)
    assert not is_caption_right("small red plain star", thing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("small red plain circle left of the large blue plain star", True),
        ("a large blue plain star right of a red circle", True),
        ("the circle above the moon", True),
        ("large blue plain star left of the small red plain circle", False),
        ("small red plain circle above the large blue plain star", False),
        ("small red plain star left of the large blue plain star", False),
        ("small red plain circle left of the", False),
        ("small red plain circle", None),
        ("left of right of", None),
    ],
)
def test_relations_are_checked_against_the_scene(
    scene: Scene, text: str, expected: bool | None
) -> None:
    found = relation_is_true(scene, text)
    assert found is expected or (expected is None and not found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle at the top left and a blue star at the top right", True),
        ("three shapes on a plain background", True),
        ("A green moon at the bottom left.", True),
        ("a red circle at the top", False),
        ("two red circles", True),
        ("a red circle and a red circle", False),
        ("four shapes on a plain background", False),
        ("three shapes on a cloudy background", False),
        ("something else entirely", False),
        ("", False),
    ],
)
def test_whole_captions_are_checked_against_the_scene(
    scene: Scene, text: str, expected: bool
) -> None:
    assert caption_is_true(scene, text) is expected


def test_clear_relations_agree_with_the_lenient_ones() -> None:
    for scene in _scenes(40):
        for i, j, predicate in clear_pairs(scene):
            a, b = scene.things[i], scene.things[j]
            assert relation(a, b) == predicate
            assert holds(a, predicate, b)
            opposite = {"left of": "right of", "above": "below"}[predicate]
            assert relation(b, a) == opposite
            assert not holds(a, opposite, b)


def test_the_vocabulary_stays_small() -> None:
    words: set[str] = set()
    for scene in _scenes(200, is_evaluation=True):
        for _, text, _ in scene_captions(scene, random.Random(scene.index)):
            words |= set(text.replace(",", "").split())
    assert len(words) <= 60
