import numpy as np
import PIL.Image
import pytest

import roikit
from roikit.chat.api import Model
from roikit.chat.session import Decoding
from roikit.errors import UsageError

A, B = (5, 5, 40, 40), (50, 10, 90, 60)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model of random weights, saved as training saves one."""
    import torch

    from roikit.config import ModelRecipe
    from roikit.model.build import build_model

    recipe = ModelRecipe(
        vision_width=32,
        language_width=48,
        language_layers=1,
        vocabulary=300,
        image_size=32,
        image_grid=2,
        region_grid=1,
    )
    torch.set_num_threads(1)
    built = build_model(recipe, texts=["what is region1 and region2 doing here? a red cat"] * 4)
    # Random weights say random bytes, or line feeds only: leave them whole words and digits.
    vocabulary = built.processor.tokenizer.get_vocab()
    words = {"Ġregion", "Ġcat", "Ġand", "1"}
    assert words <= vocabulary.keys()
    said = {vocabulary[word] for word in words}
    others = set(range(built.model.config.text_config.vocab_size)) - said
    built.model.generation_config.suppress_tokens = sorted(others)
    folder = tmp_path_factory.mktemp("model")
    built.model.save_pretrained(folder)
    built.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(model_folder) -> Model:
    return roikit.load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def test_five_lines_are_enough(model, photo):
    answer = model.ask(photo, "What is <region1>?", boxes=[A], max_new_tokens=8)
    assert answer
    assert "<" not in answer
    again = model.ask(str(photo), "What is REGION 1?", boxes=["5,5,40,40"], max_new_tokens=8)
    assert again == answer


def test_a_streamed_answer_is_the_asked_one_over_several_turns(model, photo):
    asked, streamed = model.session(photo, boxes=[A, B]), model.session(photo, boxes=[A, B])
    questions = ["And region2?", "What is region1 here?", "doing?", "And <region3>?"]
    for seed, text in enumerate(questions):
        decoding = Decoding(max_new_tokens=40, temperature=1.0, seed=seed)
        asked.decoding = streamed.decoding = decoding
        boxes = [(1, 1, 9, 9)] if "3" in text else []
        answer = asked.ask(text, boxes=boxes)
        pieces = list(streamed.stream(text, boxes=boxes))
        assert "".join(pieces).strip() == answer
        assert len(pieces) > 3
    assert streamed.turns == asked.turns
    # the model knows the region asked about first as its region1; people see the boxes' own numbers
    answers = " ".join(turn.text for turn in asked.turns if turn.role == "assistant")
    assert "<region2>" in answers
    assert "<region1>" not in answers


def test_sampling_is_repeatable_with_its_seed(model, photo):
    def sample(seed):
        return model.ask(
            photo, "What is region1?", boxes=[A], max_new_tokens=12, temperature=2.0, seed=seed
        )

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_streamed_answer_can_be_left(model, photo):
    session = model.session(photo, boxes=[A], max_new_tokens=200)
    pieces = session.stream("What is region1?")
    next(pieces, None)
    pieces.close()
    session.ask("And now?")
    assert session.turns[-2].text == "<region1>: And now?"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UsageError, match="expected a model"):
        roikit.load(tmp_path)


def test_points_and_masks_can_be_asked_about(model, photo):
    mask = np.zeros((80, 100), dtype=bool)
    mask[10:40, 10:40] = True
    answer = model.ask(
        photo, "<region1> <region2> <region3>", boxes=[A], points=[(50, 40)], masks=[mask]
    )
    assert isinstance(answer, str)
    session = model.session(photo, points=[(0.5, 0.5)], masks=[mask])
    assert session.regions[0].point_xy == (50, 40)
    assert session.regions[1].box_xyxy == (10, 10, 40, 40)
