"""The annotations made by hand hold together, in the record and in all three official formats."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from pipelines import photographs
from pipelines.coco_names import CATEGORY_IDS
from pipelines.draft import Draft, Picture, SourceOptions
from pipelines.photographs import find_picture, image_roots, write_photographs
from pipelines.photographs_read import load_photographs
from pipelines.photographs_write import (
    coco_files,
    tokens,
    vcr_files,
    visual_genome_files,
)
from pipelines.phrasing import Phraser
from pipelines.registry import DATASETS
from roikit.errors import UsageError, ValidationError
from roikit.images import read_header

PHOTOGRAPHS = load_photographs()
HELD_OUT = {"chelsea.png", "coffee.png", "grace_hopper.jpg"}


def is_installed() -> bool:
    try:
        image_roots()
    except UsageError:
        return False
    return True


needs_pictures = pytest.mark.skipif(
    not is_installed(), reason='the packages with the pictures are missing: pip install ".[photos]"'
)


def read_tree(files):
    """Decode each file of a tree; jsonl gives a list."""
    return {
        name: [json.loads(line) for line in data.splitlines()]
        if name.endswith(".jsonl")
        else json.loads(data)
        for name, data in files.items()
    }


@pytest.fixture(scope="module")
def coco():
    return read_tree(coco_files(PHOTOGRAPHS))


@pytest.fixture(scope="module")
def vg():
    return read_tree(visual_genome_files(PHOTOGRAPHS))


@pytest.fixture(scope="module")
def vcr():
    return read_tree(vcr_files(PHOTOGRAPHS))


def sides_of_the_split(coco, vg, vcr):
    """(file name, dataset) to the splits it stands in."""
    sides = defaultdict(set)
    for split in ("train", "val"):
        for image in coco[f"annotations/instances_{split}2017.json"]["images"]:
            sides[image["file_name"], "coco"].add(split)
        for asked in vcr[f"{split}.jsonl"]:
            sides[asked["img_fn"].rpartition("/")[2], "vcr"].add(split)
    names = {image["image_id"]: image["url"].rpartition("/")[2] for image in vg["image_data.json"]}
    for split, ids in vg["densecap_splits.json"].items():
        for image_id in ids:
            sides[names[image_id], "vg"].add(split)
    return sides


def test_a_picture_stands_on_the_same_one_side_in_every_format(coco, vg, vcr):
    by_name = defaultdict(set)
    for (name, _), splits in sides_of_the_split(coco, vg, vcr).items():
        by_name[name] |= splits
    assert all(len(splits) == 1 for splits in by_name.values())
    assert {name for name, splits in by_name.items() if splits == {"val"}} == HELD_OUT


def test_the_held_out_pictures_are_in_all_three_formats(coco, vg, vcr):
    sides = sides_of_the_split(coco, vg, vcr)
    assert {key for key in sides if key[0] in HELD_OUT} == {
        (name, dataset) for name in HELD_OUT for dataset in ("coco", "vg", "vcr")
    }


def test_look_alikes_are_on_one_side():
    split = {photograph.file_name: photograph.split for photograph in PHOTOGRAPHS}
    assert split["motorcycle_left.png"] == split["motorcycle_right.png"] == "train"
    cheetahs = {split[name] for name in split if name.startswith("cheetah")}
    assert cheetahs == {"train"}


def test_every_coco_box_lies_inside_its_picture_and_names_a_category(coco):
    for split in ("train", "val"):
        table = coco[f"annotations/instances_{split}2017.json"]
        sizes = {image["id"]: (image["width"], image["height"]) for image in table["images"]}
        categories = {category["id"]: category["name"] for category in table["categories"]}
        assert len(categories) == 80
        for entry in table["annotations"]:
            x, y, width, height = entry["bbox"]
            assert 0 <= x < x + width <= sizes[entry["image_id"]][0]
            assert 0 <= y < y + height <= sizes[entry["image_id"]][1]
            assert entry["category_id"] in categories
        ids = [entry["id"] for entry in table["annotations"]]
        assert len(set(ids)) == len(ids)
        captioned = coco[f"annotations/captions_{split}2017.json"]
        counts = defaultdict(int)
        for caption in captioned["annotations"]:
            counts[caption["image_id"]] += 1
        assert counts == dict.fromkeys(sizes, 5)


def test_categories_are_cocos_own():
    # Spot checks at the gaps of COCO's numbering, where a slip of one would show.
    assert len(CATEGORY_IDS) == 80
    assert list(CATEGORY_IDS.values()) == sorted(CATEGORY_IDS.values())
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(CATEGORY_IDS.values())
    probes = ("person", "stop sign", "backpack", "bottle", "dining table", "toilet", "toothbrush")
    assert [CATEGORY_IDS[name] for name in probes] == [1, 13, 27, 44, 67, 70, 90]


def test_every_vg_region_lies_inside_its_picture_and_is_lower_case(vg):
    sizes = {
        image["image_id"]: (image["width"], image["height"]) for image in vg["image_data.json"]
    }
    assert sorted(sizes) == sorted(
        image_id for ids in vg["densecap_splits.json"].values() for image_id in ids
    )
    for image in vg["region_descriptions.json"]:
        assert len(image["regions"]) >= 6
        for region in image["regions"]:
            assert region["image_id"] == image["id"]
            assert 0 <= region["x"] < region["x"] + region["width"] <= sizes[image["id"]][0]
            assert 0 <= region["y"] < region["y"] + region["height"] <= sizes[image["id"]][1]
            assert region["phrase"] == region["phrase"].lower().strip(" .")
    for image in vg["objects.json"]:
        for thing in image["objects"]:
            assert 0 <= thing["x"] < thing["x"] + thing["w"] <= sizes[image["image_id"]][0]
            assert 0 <= thing["y"] < thing["y"] + thing["h"] <= sizes[image["image_id"]][1]


def test_every_vcr_index_resolves_and_labels_are_in_range(vcr):
    classes = {name.replace(" ", "") for name in CATEGORY_IDS}
    for split in ("train", "val"):
        assert len({asked["annot_id"] for asked in vcr[f"{split}.jsonl"]}) == len(
            vcr[f"{split}.jsonl"]
        )
        for asked in vcr[f"{split}.jsonl"]:
            metadata = vcr[f"vcr1images/{asked['metadata_fn']}"]
            count = len(asked["objects"])
            assert count == len(metadata["boxes"]) == len(metadata["segms"]) > 0
            assert asked["objects"] == metadata["names"]
            assert set(asked["objects"]) <= classes
            for x0, y0, x1, y1, score in metadata["boxes"]:
                assert 0 <= x0 < x1 <= metadata["width"]
                assert 0 <= y0 < y1 <= metadata["height"]
                assert score == 1.0
            for step in ("answer", "rationale"):
                assert len(asked[f"{step}_choices"]) == len(asked[f"{step}_sources"]) == 4
                assert asked[f"{step}_match_iter"][asked[f"{step}_label"]] == 0
            for text in (
                asked["question"],
                *asked["answer_choices"],
                *asked["rationale_choices"],
            ):
                indices = [i for token in text if isinstance(token, list) for i in token]
                assert all(0 <= i < count for i in indices)
                assert not any("[" in token or "]" in token for token in text)


def test_the_right_option_follows_the_label_wherever_it_was_put(vcr):
    asked = next(q for q in vcr["val.jsonl"] if q["question_orig"] == "Is 1 asleep?")
    assert asked["answer_choices"][asked["answer_label"]] == ["No", ",", [0], "is", "awake", "."]
    assert asked["answer_orig"] == "No, 1 is awake."
    labels = [q["answer_label"] for split in ("train", "val") for q in vcr[f"{split}.jsonl"]]
    assert set(labels) == {0, 1, 2, 3}


def test_a_group_of_objects_becomes_one_list_of_indices(vcr):
    text = "What are [cup, spoon] resting on?"
    assert tokens(text, {"cup": 1, "spoon": 2}) == ["What", "are", [1, 2], "resting", "on", "?"]
    originals = {asked["question_orig"] for asked in vcr["val.jsonl"]}
    assert "What are 2 and 3 resting on?" in originals


def test_at_least_twelve_pictures_and_no_phrase_twice_in_a_picture():
    assert len(PHOTOGRAPHS) >= 12
    for photograph in PHOTOGRAPHS:
        said = [region.phrase for region in photograph.regions]
        assert len(set(said)) == len(said), photograph.file
        assert len(photograph.captions) == 5


def test_ids_stand_clear_of_the_real_datasets(vg):
    # COCO's photographs end below 582,000, Visual Genome's below 2,420,000.
    assert min(image["image_id"] for image in vg["image_data.json"]) > 10_000_000


def test_the_table_in_the_documentation_is_true():
    page = (Path(__file__).parents[2] / "docs" / "photographs.md").read_text(encoding="utf-8")
    for one in PHOTOGRAPHS:
        counts = (one.objects, one.coco_objects, one.regions, one.questions)
        row = " | ".join([f"| `{one.file}`", one.split, *(str(len(count)) for count in counts)])
        assert f"{row} |" in page


@needs_pictures
def test_pictures_are_the_ones_that_were_annotated(caplog, tmp_path):
    for photograph in PHOTOGRAPHS:
        header = read_header(find_picture(photograph).read_bytes())
        assert (header.width, header.height) == (photograph.width, photograph.height)
    write_photographs(tmp_path)
    assert caplog.records == []


@needs_pictures
def test_base_names_find_exactly_one_picture_below_the_roots():
    for photograph in PHOTOGRAPHS:
        found = [root / photograph.file_name for root in image_roots()]
        assert [path for path in found if path.is_file()] == [find_picture(photograph)]


def converted(name, split, report):
    """Run a split through the real converter: file name to what its draft became."""
    spec = DATASETS[name]
    opened = spec.open_source(report.sources[name], report.image_roots, SourceOptions())
    records = opened.splits[split]()
    assert records.rejections == []
    result = {}
    for draft in records.drafts:
        data = (opened.roots.folders[draft.root] / draft.file).read_bytes()
        picture = Picture(
            header=read_header(data),
            roots=opened.roots,
            phraser=Phraser(seed=0, key=draft.file),
        )
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(draft), type=Draft)
        built = spec.build(stored, picture)
        assert built.rejections == []
        assert built.num_clipped == 0
        assert built.num_converted == draft.num_records
        result[draft.file] = built
    return result


@needs_pictures
@pytest.mark.parametrize("name", ["coco", "vg", "vcr"])
def test_the_real_converters_take_every_record(name, tmp_path):
    report = write_photographs(tmp_path)
    built = converted(name, "train", report) | converted(name, "val", report)
    boxes = {file: [region.box_xyxy for region in one.regions] for file, one in built.items()}
    chosen = [one for one in PHOTOGRAPHS if name != "vcr" or one.questions]
    assert boxes == {
        one.file_name: [one.box_of(region) for region in one.regions]
        if name == "vg"
        else [thing.box_xyxy for thing in one.coco_objects]
        for one in chosen
    }


@needs_pictures
def test_golden_vcr_question(tmp_path):
    coffee = converted("vcr", "val", write_photographs(tmp_path))["coffee.png"]
    assert [region.label for region in coffee.regions] == ["dining table", "cup", "spoon"]
    multi = next(one for one in coffee.conversations if one.task == "reasoning-multi")
    assert multi.turns[0].text == "What are <region2> and <region3> resting on?"
    assert multi.turns[1].text == "<region2> and <region3> are on a red saucer."
    choices = [one.choice for one in coffee.conversations if one.choice is not None]
    assert len(choices) == 8
    right = [one.options[one.answer] for one in choices]
    assert "There is espresso in <region2>." in right


@needs_pictures
def test_no_package_is_imported_and_no_picture_is_copied(tmp_path):
    before = set(sys.modules)
    report = write_photographs(tmp_path)
    assert not {"skimage", "sklearn", "matplotlib", "gradio"} & (set(sys.modules) - before)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl"}
    assert report.pictures["vcr val"] == 3


@needs_pictures
def test_writing_again_is_safe_and_other_files_are_kept(tmp_path):
    write_photographs(tmp_path)
    write_photographs(tmp_path)
    other = tmp_path / "vcr" / "val.jsonl"
    other.write_text("mine")
    with pytest.raises(UsageError, match=r"val\.jsonl"):
        write_photographs(tmp_path)
    assert other.read_text() == "mine"
    write_photographs(tmp_path, overwrite=True)
    assert other.read_text() != "mine"


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="`scikit-image`") as raised:
        write_photographs(Path("/nowhere"))
    assert 'pip install -e ".[photos]"' in str(raised.value.hint)


@needs_pictures
def test_a_picture_of_another_size_is_refused(monkeypatch, tmp_path):
    changed = msgspec.structs.replace(PHOTOGRAPHS[0], width=PHOTOGRAPHS[0].width + 1)
    monkeypatch.setattr(photographs, "load_photographs", lambda: (changed,))
    with pytest.raises(UsageError, match="513 x 512 pixels, found 512 x 512"):
        write_photographs(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("box_xyxy", [0, 0, 5000, 10], "not a box inside 512 x 512"),
        ("colour", "red", "unknown field `colour`"),
    ],
)
def test_a_slip_in_an_annotation_file_is_named(field, value, message, monkeypatch, tmp_path):
    folder = tmp_path / "photograph_annotations"
    folder.mkdir()
    record = json.loads(msgspec.json.encode(PHOTOGRAPHS[0]))
    record["objects"][0][field] = value
    (folder / "astronaut.json").write_text(json.dumps(record))
    monkeypatch.setattr("pipelines.photographs_read.resources.files", lambda name: tmp_path)
    with pytest.raises(ValidationError, match=r"astronaut\.json: .*" + message):
        load_photographs()
