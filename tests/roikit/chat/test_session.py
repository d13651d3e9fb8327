import hashlib
import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from roikit.chat.session import Decoding, Session
from roikit.errors import UsageError
from roikit.masks import decode_mask, encode_mask
from roikit.sample import decode_sample, validate_sample

A, B, C = (10, 10, 60, 60), (70, 10, 120, 60), (130, 10, 190, 90)


def texts(prompt):
    return [turn.text for turn in prompt.turns]


def test_a_dialogue_builds_on_its_turns_and_regions_added_later(make_session):
    session, model = make_session("a dog", "region2 is larger than region1", boxes=[A])
    assert session.ask("What is region 1?") == "a dog"
    assert session.add_region(B) == 2
    answer = session.ask("Is <region2> larger than region1?")
    assert answer == "region2 is larger than region1"
    prompt = model.prompts[1]
    assert texts(prompt) == [
        "What is <region1>?",
        "a dog",
        "Is <region2> larger than <region1>?",
    ]
    assert [region.box_xyxy for region in prompt.regions] == [A, B]
    assert session.turns[3].text == "<region2> is larger than <region1>"


def test_streaming_leaves_the_same_conversation_as_asking(make_session):
    streamed, _ = make_session("near region1 is region9, <image>", boxes=[A])
    asked, _ = make_session("near region1 is region9, <image>", boxes=[A])
    pieces = list(streamed.stream("What is region1?"))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == asked.ask("What is region1?")
    assert streamed.turns == asked.turns
    assert streamed.turns[1].text == "near <region1> is region9, <<image>"


def test_the_picture_and_the_decoding_reach_the_model(make_session):
    decoding = Decoding(max_new_tokens=7, temperature=0.5, seed=3)
    session, model = make_session(decoding=decoding)
    session.ask("What is here?")
    list(session.stream("And now?"))
    assert model.decodings == [{"max_new_tokens": 7, "temperature": 0.5, "seed": 3}] * 2
    assert model.prompts[0].image is session.picture.pixels


def test_text_without_a_region_gets_the_newest(make_session):
    session, _ = make_session(boxes=[A, B])
    assert session.user_text("What is it?") == "<region2>: What is it?"
    session.ask("What is it?")
    session.add_region(C)
    assert session.user_text("And this?") == "<region3>: And this?"


def test_a_follow_up_speaks_of_the_regions_last_named(make_session):
    session, _ = make_session(boxes=[A, B, C])
    session.ask("What is region1?")
    assert session.user_text("Why?") == "<region1>: Why?"
    session.ask("Compare region3, region1 and region3")
    session.ask("Which is larger?")
    assert session.user_text("Why?") == "<region3> and <region1>: Why?"
    session.undo()
    session.undo()
    assert session.user_text("Why?") == "<region1>: Why?"
    session.clear()
    assert session.user_text("Why?") == "<region3>: Why?"


def test_text_without_a_region_stays_alone_where_there_are_none_or_it_is_asked_to(make_session):
    session, model = make_session()
    session.ask("What is here?")
    session.ask("What else?", boxes=[A], name_region=False)
    assert texts(model.prompts[1])[-1] == "What else?"


def test_a_question_about_an_unknown_region_changes_nothing(make_session):
    session, model = make_session(boxes=[A])
    with pytest.raises(UsageError, match="there are region1 and region2"):
        session.ask("What is region 5?", boxes=[B])
    with pytest.raises(UsageError, match="x0 < x1"):
        session.ask("What is region2?", boxes=[B, (9, 9, 1, 1)])
    with pytest.raises(UsageError, match="there is region1"):
        session.stream("What is region2?")  # at once, before the first piece is taken
    with pytest.raises(UsageError, match="empty"):
        session.ask("  ")
    assert len(session.regions) == 1
    assert not session.turns
    assert not model.prompts


def test_a_stopped_answer_stays_as_far_as_it_came(make_session):
    session, model = make_session("one two three four", "one CTRL-C two")
    pieces = session.stream("Count")
    assert next(pieces) + next(pieces) == "one two "
    pieces.close()
    assert session.turns[1].text == "one two"
    assert model.num_closed == 1
    with pytest.raises(KeyboardInterrupt):
        list(session.stream("Again"))
    assert [turn.text for turn in session.turns[2:]] == ["Again", "one"]


def test_an_answer_that_fails_or_says_nothing_leaves_no_turn(make_session):
    session, _ = make_session("one FAIL", "", RuntimeError("no memory"))
    with pytest.raises(RuntimeError):
        list(session.stream("Count"))
    assert session.ask("Anything?") == ""
    with pytest.raises(RuntimeError):
        session.ask("And now?")
    assert not session.turns


def test_undo_goes_back_step_by_step(make_session):
    session, _ = make_session(boxes=[A])
    session.ask("What is region1?")
    session.add_region(B)
    assert session.undo() == "region2"
    assert session.undo() == "the question `What is region1?`"
    assert session.undo() == "region1"
    assert session.undo() is None
    assert (session.regions, session.turns) == ((), ())


def test_clear_keeps_regions_unless_told(make_session):
    session, _ = make_session(boxes=[A, B])
    session.ask("What is region1?")
    session.clear()
    assert len(session.regions) == 2
    assert not session.turns
    assert session.undo() == "region2"
    session.clear(keep_regions=False)
    assert not session.regions


def test_boxes_are_read_in_the_sessions_format(make_session):
    session, _ = make_session(boxes=["10,10,20,20"], box_format="xywh")
    session.ask("And this?", boxes=[(0.5, 0.5, 0.5, 0.5)])
    assert [region.box_xyxy for region in session.regions] == [
        (10, 10, 30, 30),
        (100, 50, 200, 100),
    ]


def test_another_picture_starts_anew_with_the_same_model_and_settings(make_session):
    session, model = make_session(boxes=["1,1,5,5"], box_format="xywh")
    session.ask("What is it?")
    other = session.with_image(np.zeros((10, 10, 3), dtype=np.uint8))
    assert (other.regions, other.turns) == ((), ())
    other.ask("And here?", boxes=["1,1,5,5"])
    assert other.regions[0].box_xyxy == (1, 1, 6, 6)
    assert model.prompts[1].image.shape == (10, 10, 3)


def test_a_saved_conversation_is_a_valid_sample_and_can_be_taken_up(make_session, tmp_path):
    session, model = make_session("region2 by <region1>", boxes=[A])
    session.add_region(B, label="dog")
    session.add_region(C)
    session.ask("What is region2?")
    files = session.save(tmp_path / "talks" / "one.json")
    assert [file.name for file in files] == ["one.json", "one.png", "one-original.png"]
    sample = decode_sample(files[0].read_bytes())
    validate_sample(sample)
    assert sample.dataset == "chat"
    assert {region.origin for region in sample.regions} == {"user"}
    assert [region.is_context for region in sample.regions] == [False, False, True]
    assert sample.regions[1].label == "dog"
    drawn = PIL.Image.open(files[1])
    assert drawn.width % 200 == 0

    resumed = Session(model, files[2])
    resumed.resume(sample)
    assert resumed.turns == session.turns
    resumed.ask("Why?")
    assert texts(model.prompts[-1])[-1] == "<region2>: Why?"
    with pytest.raises(UsageError, match="not the picture"):
        Session(model, np.zeros((100, 200, 3), np.uint8)).resume(sample)
    with pytest.raises(UsageError, match="200 x 100"):
        Session(model, np.zeros((10, 20, 3), np.uint8)).resume(sample)


def test_a_resumed_region_spoken_of_later_is_no_longer_context(make_session):
    session, _ = make_session(boxes=[A, B])
    session.ask("What is region1?")
    sample = session.to_sample()
    session.resume(sample)
    session.ask("What is region2?")
    assert [region.is_context for region in session.to_sample().regions] == [False, False]


def test_saving_a_photo_keeps_its_hash_and_does_not_copy_it(make_session, tmp_path):
    session, _ = make_session()
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    PIL.Image.fromarray(session.picture.pixels).save(buffer, format="JPEG", exif=exif)
    photo = tmp_path / "my.photo.jpg"
    photo.write_bytes(buffer.getvalue())
    session = session.with_image(photo)
    session.ask("What is here?")
    files = session.save(tmp_path / "out")
    assert [file.name for file in files] == ["out.json", "out.png"]
    image = decode_sample(files[0].read_bytes()).image
    assert (image.file, image.orientation, image.width) == ("my.photo.jpg", 8, 100)
    assert image.sha256 == hashlib.sha256(buffer.getvalue()).hexdigest()


def test_saving_never_replaces_a_file_unless_told(make_session, tmp_path):
    session, _ = make_session()
    with pytest.raises(UsageError, match="nothing has been said"):
        session.save(tmp_path / "one")
    session.ask("What is here?")
    session.save(tmp_path / "one")
    with pytest.raises(UsageError, match=r"one\.json"):
        session.save(tmp_path / "one")
    assert session.save(tmp_path / "one", overwrite=True)


def test_importing_the_session_does_not_import_torch():
    code = "import sys, roikit.chat.session, roikit.chat.api, roikit.chat.terminal;"
    code += "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_points_and_masks_are_regions_too(make_session):
    mask = np.zeros((100, 200), dtype=bool)
    mask[20:60, 30:90] = True
    session, model = make_session(boxes=[A], points=[(100, 50)], masks=[mask])
    assert session.add_region(point="0.5 0.25", label="dot") == 4
    assert session.add_region(B, mask=encode_mask(mask, (200, 100))) == 5
    boxed, pointed, masked, dot, both = session.regions
    assert (boxed.point_xy, boxed.mask_rle) == (None, None)
    assert pointed.point_xy == (100, 50)
    assert pointed.box_xyxy == (93.75, 43.75, 106.25, 56.25)
    assert masked.box_xyxy == (30, 20, 90, 60)
    assert np.array_equal(decode_mask(masked.mask_rle), mask)
    assert (dot.point_xy, dot.label) == ((100, 25), "dot")
    assert (both.box_xyxy, both.mask_rle) == (B, masked.mask_rle)
    session.ask("Is <region3> beside <region2>?")
    assert model.prompts[0].regions == session.regions
    validate_sample(session.to_sample())
    session.draw()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "expected a box, a point or a mask, got none"),
        ({"point": (201, 5)}, "point `201,5`: lies outside the picture, which is 200 x 100 pixels"),
        ({"point": (1, 2, 3)}, "point `1,2,3`: expected two numbers `x,y`, got 3"),
        ({"point": "a,1"}, "point `a,1`: expected two numbers `x,y`, and `a` is none"),
        ({"mask": np.ones((200, 100), dtype=bool)}, "the picture's size, 200 x 100"),
        ({"mask": np.zeros((100, 200), dtype=bool)}, "mask: expected pixels in it"),
    ],
)
def test_a_wrong_point_or_mask_is_refused(make_session, region, message):
    session, _ = make_session()
    with pytest.raises(UsageError) as caught:
        session.add_region(**region)
    assert message in str(caught.value)
    assert session.regions == ()
