"""Plants faults into the miniature world's trees of texts: VCR, LLaVA and one's own JSON lines."""

import json
from pathlib import Path
from typing import Any

from pipelines.miniature_ground import Ground, Planted
from pipelines.miniature_llava import RESULTS, WHOLE

_UNKNOWN = 987_654_321_012  #: nothing has this id
_CUT_LINE = b'{"cut off while'


def plant_in_vcr(world: Path) -> list[Planted]:
    """Plant faults into VCR's train."""
    ground = Ground(world, "vcr", split="train", first_id=9_700_000_000)
    lines = (ground.folder / "train.jsonl").read_bytes().splitlines()
    good = json.loads(lines[0])
    images = ground.folder / "vcr1images"
    metadata = json.loads((images / good["metadata_fn"]).read_bytes())
    added: list[Any] = []

    def add(code: str, what: str, change: dict[str, Any], place: str | None = None) -> None:
        number = ground.new_id()
        line = good | {"annot_id": f"train-{number}"} | change
        record = {"line": f"line {len(lines) + len(added) + 1}", None: line["annot_id"]}
        ground.note(code, "train.jsonl", record.get(place, place) or "", what)
        added.append(line)

    def add_picture(code: str, what: str, *, has_metadata: bool = True) -> None:
        stem = f"lsmdc_0001_FAULTS/{ground.new_id()}@0"
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(images / good["img_fn"], images / f"{stem}.jpg")
        elif code != "E_IMAGE_MISSING":
            ground.copy_picture(images / good["img_fn"], images / f"{stem}.jpg")
        if has_metadata:
            sized = {"width": 3 * metadata["width"]} if code == "E_SIZE_MISMATCH" else {}
            data = json.dumps(metadata | sized).encode()
            ground.write(f"vcr1images/{stem}.json", data)
        names = {"img_fn": f"{stem}.jpg", "metadata_fn": f"{stem}.json"}
        add(code, what, names, "line")

    add("E_COUNT_MISMATCH", "more objects than boxes", {"objects": [*good["objects"], "star"]})
    add("E_VALUE_RANGE", "a right answer that is no option", {"answer_label": 9})
    absent = ["Why", "is", [99], "red", "?"]
    add("E_REF_NO_ANNOTATION", "an object that is not there", {"question": absent})
    add("E_PHRASE_EMPTY", "a question of a mark alone", {"question": ["?"]})
    add("E_RECORD_DUPLICATE", "a question again", {"annot_id": good["annot_id"]}, "line")
    add("E_FIELD_TYPE", "objects that are no list", {"objects": "star"}, "line")
    add("E_NAME_UNSAFE", "a path out of the folder", {"img_fn": "../../outside.jpg"}, "line")
    add_picture("E_IMAGE_MISSING", "a picture that is not there")
    add_picture("E_IMAGE_TRUNCATED", "a picture that was cut off")
    add_picture("E_METADATA_MISSING", "boxes that are not there", has_metadata=False)
    add_picture("E_SIZE_MISMATCH", "a picture of another shape than its boxes")
    where = f"line {len(lines) + len(added) + 1}"
    ground.note("E_JSON_INVALID", "train.jsonl", where, "a line that was cut off")
    ground.append_lines("train.jsonl", [*added, _CUT_LINE])
    return ground.planted


def plant_in_llava(world: Path) -> list[Planted]:
    """Plant faults into LLaVA's dialogues; its boxes, which need an option, stay good."""
    ground = Ground(world, "llava", split="train", first_id=970_000_000)
    records = ground.read_json(WHOLE)
    good = records[0]
    human, gpt = good["conversations"][:2]
    picture = ground.folder / "train2017" / good["image"]
    for code, what, change in (
        ("E_TURN_ORDER", "an answer before the question", {"conversations": [gpt, human]}),
        ("E_TURN_ORDER", "a question that nobody answers", {"conversations": [human]}),
        ("E_PHRASE_EMPTY", "an empty answer", {"conversations": [human, gpt | {"value": " "}]}),
        ("E_FIELD_TYPE", "turns that are a text", {"conversations": "hello"}),
        ("E_IMAGE_UNKNOWN", "a picture that is not COCO's", {"image": "holiday.jpg"}),
        ("E_NAME_UNSAFE", "a path out of the folder", {"image": f"../../{good['image']}"}),
        ("E_IMAGE_MISSING", "a picture that is not there", {}),
        ("E_IMAGE_TRUNCATED", "a picture that was cut off", {}),
    ):
        name = f"{ground.new_id():012d}.jpg"
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(picture, picture.with_name(name))
        ground.note(code, WHOLE, f"[{len(records)}]", what)
        renamed = {"image": name} if code in ("E_IMAGE_MISSING", "E_IMAGE_TRUNCATED") else {}
        records.append(good | renamed | change)
    ground.note("E_FIELD_MISSING", WHOLE, f"[{len(records)}]", "a record of no picture")
    records.append({"id": "text only", "conversations": good["conversations"]})
    ground.write_json(WHOLE, records)
    return ground.planted


def plant_in_detections(world: Path) -> list[Planted]:
    """Plant faults into LLaVA's detections in COCO's form; found with `--detections` only."""
    ground = Ground(world, "llava", source=f"llava/{RESULTS}", split="train", first_id=0)
    ground.folder = world / "llava"
    results = ground.read_json(RESULTS)
    good = results[0]
    for code, what, change in (
        ("E_CATEGORY_UNKNOWN", "a category that is not listed", {"category_id": _UNKNOWN}),
        ("E_VALUE_RANGE", "a score above 1", {"score": 7}),
        ("E_BOX_EMPTY", "a box without a width", {"bbox": [4, 4, 0, 9]}),
        ("E_BOX_OUTSIDE", "a box right of the picture", {"bbox": [5000, 4, 9, 9]}),
        ("E_FIELD_TYPE", "a box of three numbers", {"bbox": [1, 2, 3]}),
    ):
        ground.note(code, RESULTS, f"[{len(results)}]", what)
        results.append(good | {"score": 0.9} | change)
    ground.write_json(RESULTS, results)
    return ground.planted


def plant_in_jsonl(world: Path) -> list[Planted]:
    """Plant faults into one's own data, in train."""
    ground = Ground(world, "jsonl", split="train", first_id=9_900_000_000)
    file = "train.jsonl"
    lines = (ground.folder / file).read_bytes().splitlines()
    good = json.loads(lines[0])
    picture = ground.folder / "images" / good["image"]
    added: list[Any] = []

    def add(code: str, what: str, change: dict[str, Any], inside: str = "") -> None:
        number = f"line {len(lines) + len(added) + 1}"
        ground.note(code, file, f"{number}{inside}", what)
        empty = {"image": good["image"], "regions": [], "conversations": []}
        added.append(empty | change)

    def region(**change: Any) -> dict[str, Any]:
        return {"regions": [{"box": [10, 10, 40, 40], "label": "shape"} | change]}

    def ask(*exchanges: dict[str, Any]) -> dict[str, Any]:
        return {"conversations": [list(exchanges)]}

    add("E_FIELD_UNKNOWN", "a field that is misspelt", {"region": []})
    add("E_FIELD_TYPE", "a picture's name that is a number", {"image": 7})
    add("E_NAME_UNSAFE", "a path out of the folder", {"image": "../../outside.jpg"})
    add("E_RECORD_DUPLICATE", "a line's id again", {"id": good["id"]})
    add("E_BOX_OUTSIDE", "a box off the picture", region(box=[5000, 1, 5010, 9]), ", regions[0]")
    add("E_BOX_EMPTY", "corners in the wrong order", region(box=[40, 40, 10, 10]), ", regions[0]")
    add("E_VALUE_RANGE", "fractions for pixels", region(box=[0.1, 0.1, 0.4, 0.4]), ", regions[0]")
    add("E_PHRASE_EMPTY", "an empty label", region(label=" "), ", regions[0]")
    nobody = {"user": "What is <region9>?", "assistant": "It is red."}
    add("E_REF_NO_ANNOTATION", "a region that is not there", ask(nobody), ", conversations[0]")
    options = {"user": "Which one?", "options": ["red", "blue"], "answer": "green"}
    add("E_OPTIONS_AMBIGUOUS", "an answer that is no option", ask(options), ", conversations[0]")
    silent = {"user": "Is anybody there?"}
    add("E_FIELD_MISSING", "a question without an answer", ask(silent), ", conversations[0]")
    add("E_IMAGE_MISSING", "a picture that is not there", {"image": "gone.jpg"} | region())
    ground.cut_picture(picture, picture.with_name("cut.jpg"))
    add("E_IMAGE_TRUNCATED", "a picture that was cut off", {"image": "cut.jpg"} | region())
    ground.break_picture(picture.with_name("page.jpg"))
    add("E_IMAGE_UNREADABLE", "a page by a picture's name", {"image": "page.jpg"} | region())
    where = f"line {len(lines) + len(added) + 1}"
    ground.note("E_JSON_INVALID", file, where, "a line that was cut off")
    ground.append_lines(file, [*added, _CUT_LINE])
    return ground.planted
