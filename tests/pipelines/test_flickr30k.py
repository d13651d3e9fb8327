import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.draft import SourceOptions
from pipelines.flickr30k_entities import parse_sentence
from pipelines.flickr30k_xml import parse_annotation
from pipelines.phrasing import fill, wordings
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.sample import Conversation, exchanges

#: (chain ids, corners or None, flags)
Object = tuple[list[str], tuple[Any, ...] | None, str]


def xml(objects: list[Object], width: Any = 64, height: Any = 48) -> bytes:
    text = f"<annotation><filename>x.jpg</filename><size><width>{width}</width>"
    text += f"<height>{height}</height><depth>3</depth></size>\n"
    for names, corners, flags in objects:
        text += "<object>" + "".join(f"<name>{name}</name>" for name in names)
        if corners is not None:
            named = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
            text += "<bndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in named) + "</bndbox>"
        text += flags + "</object>\n"
    return (text + "</annotation>\n").encode()


SCENE = "<scene>1</scene><nobndbox>0</nobndbox>"
NO_BOX = "<scene>0</scene><nobndbox>1</nobndbox>"
NEITHER = "<scene>0</scene><nobndbox>0</nobndbox>"


def entities(tree: Any, files: dict[str, tuple[bytes, str]], split: str = "train") -> Path:
    """Write the original form: image id to its XML and its sentences."""
    listed = ""
    for image_id, (data, sentences) in files.items():
        listed += f"{image_id}\n"
        tree.put(f"Annotations/{image_id}.xml", data)
        tree.put(f"Sentences/{image_id}.txt", sentences.encode())
        tree.picture(f"flickr30k-images/{image_id}.jpg")
    tree.put(f"{split}.txt", listed.encode())
    return Path(tree.root)


MAN = (["12"], (1, 1, 20, 40), "")
KITE = (["15", "16"], (31, 2, 60, 21), "")
GOLDEN = (
    xml(
        [
            MAN,
            KITE,
            (["17"], (5, 10, 14, 20), ""),
            (["17"], (41, 30, 50, 45), ""),  # one chain, two boxes
            (["18"], None, SCENE),
            (["19"], None, NO_BOX),
            (["20"], (61, 41, 70, 50), NO_BOX),  # flagged, and has a box all the same
        ]
    ),
    # The man is named twice; the kite's box has two chains; what 0 marks is not one thing.
    "[/EN#12/people A tall man] with [/EN#17/people/other two friends] ( on a hill ) holds"
    " [/EN#15/other a kite] , [/EN#16/other his toy] , in [/EN#12/people his] hands .\n"
    "[/EN#0/notvisual It] is [/EN#18/scene a <region1> beach] and [/EN#19/other wind] ."
    " [/EN#0/notvisual That] 's all !\n"
    "Ein Café , [/EN#20/other drei Räder] .  \r\n"
    "\n  \n",
)


@pytest.fixture
def source(tree: Any) -> Path:
    tree.put("UNRELATED_CAPTIONS", b"# format: <imageID> <sentence number>\n77 1\n")
    return entities(tree, {"36979": GOLDEN})


def asked(conversation: Conversation) -> list[tuple[str, str]]:
    return [(question.text, answer.text) for question, answer in exchanges(conversation)]


def is_wording(text: str, family: str, **slots: str) -> bool:
    return text in {fill(wording, **slots) for wording in wordings(family)}


def test_golden_conversation(source: Path, shards: Any, find: Any) -> None:
    (report,) = convert("flickr30k", source, shards.root)
    sample = shards.samples("flickr30k", "train")["flickr30k:36979"]
    assert sample.image.file == "36979.jpg"
    assert [(r.box_xyxy, r.native_id) for r in sample.regions] == [
        ((0, 0, 20, 40), "12"),  # 1-based, the last pixel included
        ((30, 1, 60, 21), "15,16"),
        ((4, 9, 50, 45), "17"),  # encloses both
        ((60, 40, 64, 48), "20"),
    ]
    assert [(c.id, c.task, c.independent) for c in sample.conversations] == [
        ("36979/grounded-caption-1", "grounded-caption", False),
        ("36979/grounded-caption-3", "grounded-caption", False),
        ("36979/image-caption", "image-caption", True),
    ]
    said = find(sample, "36979/grounded-caption-1")
    assert (said.source.file, said.source.record) == ("Sentences/36979.txt", "line 1")
    assert asked(said) == [
        (
            "Someone marked <region2>, <region1> and <region3>. Put the picture into a sentence.",
            "A tall man with two friends (on a hill) holds a kite, his toy, in his hands.",
        ),
        ("Which of your words belong to <region2>?", "a kite; his toy"),
        ("Which phrase of your description stands for <region1>?", "A tall man; his"),
        ("What did you call <region3>?", "two friends"),
    ]
    assert [turn.phrasing for turn in said.turns[::2]] == [
        "grounded-caption", "which-phrase", "which-phrase", "which-phrase",
    ]  # fmt: skip
    third = find(sample, "36979/grounded-caption-3")
    assert third.source.record == "line 3"
    assert [answer for _, answer in asked(third)] == ["Ein Café, drei Räder.", "drei Räder"]
    plain = find(sample, "36979/image-caption")
    assert [answer for _, answer in asked(plain)] == [
        "It is a <<region1> beach and wind. That's all!"
    ]
    assert report.records_found == report.records_converted == 3 + 5
    assert (report.rejections, report.boxes_clipped) == ({}, 1)


def test_regions_are_listed_in_an_order_that_is_not_the_captions(tree: Any, shards: Any) -> None:
    objects: list[Object] = [([str(i)], (1, 8 * i, 20, 8 * i + 7), "") for i in range(1, 5)]
    sentence = " and ".join(f"[/EN#{i}/other thing {i}]" for i in range(1, 5)) + "\n"
    files = {str(100 + i): (xml(objects), sentence) for i in range(8)}
    convert("flickr30k", entities(tree, files), shards.root)
    orders = set()
    for sample in shards.samples("flickr30k", "train").values():
        answers = [answer for _, answer in asked(sample.conversations[0])][1:]
        assert sorted(answers) == ["thing 1", "thing 2", "thing 3", "thing 4"]
        orders.add(tuple(answers))
    assert len(orders) > 3


def test_faithful_brings_the_references_text_back(source: Path, shards: Any, find: Any) -> None:
    convert("flickr30k", source, shards.root, options=SourceOptions(faithful=True))
    sample = shards.samples("flickr30k", "train")["flickr30k:36979"]
    turns = asked(find(sample, "36979/grounded-caption-1"))
    assert turns[0] == (
        "Someone marked <region2>,<region1>,<region3>,. Put the picture into a sentence.",
        "A tall man with two friends ( on a hill ) holds a kite , his toy , in his hands .",
    )
    assert is_wording(turns[1][0], "which-phrase", region="region 1")
    assert is_wording(turns[2][0], "which-phrase", region="region 2")
    assert [answer for _, answer in turns[1:]] == ["a kite", "A tall man", "two friends"]


def test_separate_boxes_are_converted_on_request(source: Path, shards: Any, find: Any) -> None:
    assert [r.split for r in convert("flickr30k", source, shards.root)] == ["train"]
    convert("flickr30k", source, shards.root, splits=["train-separate"])
    sample = shards.samples("flickr30k", "train-separate")["flickr30k:36979"]
    assert [r.native_id for r in sample.regions] == ["12", "15,16", "17", "17", "20"]
    answers = [answer for _, answer in asked(find(sample, "36979/grounded-caption-1"))][1:]
    assert sorted(answers) == ["A tall man; his", "a kite; his toy", "two friends", "two friends"]


def test_boxes_that_nearly_coincide_are_one_region(tree: Any, shards: Any) -> None:
    objects: list[Object] = [
        (["1"], (1, 1, 40, 40), ""), (["2"], (1, 1, 40, 39), ""), (["3"], (1, 1, 40, 36), "")
    ]  # fmt: skip
    sentence = "[/EN#1/people A boy] , [/EN#2/people a goalkeeper] in [/EN#3/other red]\n"
    convert("flickr30k", entities(tree, {"1": (xml(objects), sentence)}), shards.root)
    (sample,) = shards.samples("flickr30k", "train").values()
    assert [r.native_id for r in sample.regions] == ["1,2", "3"]
    answers = {answer for _, answer in asked(sample.conversations[0])}
    assert {"A boy; a goalkeeper", "red"} < answers


def test_unrelated_captions_are_left_out_as_policy(tree: Any, shards: Any) -> None:
    # The list counts captions from 1.
    tree.put("UNRELATED_CAPTIONS", b"# format: <imageID> <sentence number>\n36979 1\nwhat 1\n")
    source = entities(tree, {"36979": GOLDEN})
    (report,) = convert("flickr30k", source, shards.root, max_rejects=1)
    assert shards.codes("flickr30k", "train") == {
        "line 1": "E_CAPTION_UNRELATED", "line 3": "E_FIELD_TYPE",
    }  # fmt: skip
    assert (report.records_by_policy, report.records_converted) == (1, 2 + 5)
    (sample,) = shards.samples("flickr30k", "train").values()
    assert [c.id for c in sample.conversations] == [
        "36979/grounded-caption-3", "36979/image-caption",
    ]  # fmt: skip
    # The boxes that only it speaks of are good data.
    assert [r.is_context for r in sample.regions] == [True, True, True, False]


def test_a_bad_line_of_the_list_of_unrelated_captions_is_counted_once(
    tree: Any, shards: Any
) -> None:
    tree.put("UNRELATED_CAPTIONS", b"what 1\n")
    for number, split in enumerate(("val", "test")):
        entities(tree, {f"{number + 1}": GOLDEN}, split)
    reports = convert("flickr30k", tree.root, shards.root / "a", max_rejects=1)
    assert [report.rejections for report in reports] == [{"E_FIELD_TYPE": 1}, {}]
    for path in tree.root.glob("*.txt"):
        path.unlink()
    for split in ("val", "test"):
        mdetr(tree, MERGED, f"mergedGT_{split}")
    reports = convert("flickr30k", tree.root, shards.root / "b", max_rejects=1)
    assert [report.rejections for report in reports] == [{"E_FIELD_TYPE": 1}, {}]


def test_every_trap_of_the_boxes_has_its_code(tree: Any, shards: Any) -> None:
    objects: list[Object] = [
        MAN,
        (["1"], (30, 30, 20, 40), ""),
        (["2"], (100, 1, 120, 40), ""),
        (["3"], None, NEITHER),
        (["4"], (1, 2, 3), ""),
        (["5"], (1, 2, "nan", 4), ""),
        (["6"], (1, 2, "wide", 4), ""),
        ([], (1, 2, 3, 4), ""),
        (["0"], (1, 2, 30, 40), ""),
        (["man"], (1, 2, 30, 40), ""),
        (["12"], (0, 0, 64, 48), ""),  # counted from 0: clipped
        (["7"], (), ""),  # an empty bndbox
        (["8"], ("1e400", 2, 30, 40), ""),
        (["9"], (7, 7, 7, 7), ""),  # a single pixel
    ]
    sentence = "[/EN#12/people A man] near [/EN#1/other a] [/EN#99/other b] and [/EN#99/other b]\n"
    source = entities(tree, {"5": (xml(objects), sentence)})
    (report,) = convert("flickr30k", source, shards.root, max_rejects=1)
    assert shards.codes("flickr30k", "train") == {
        "object[1]": "E_BOX_EMPTY",
        "object[2]": "E_BOX_OUTSIDE",
        "object[3]": "E_FIELD_MISSING",
        "object[4]": "E_FIELD_MISSING",
        "object[5]": "E_FIELD_TYPE",
        "object[6]": "E_FIELD_TYPE",
        "object[7]": "E_FIELD_MISSING",
        "object[8]": "E_VALUE_RANGE",
        "object[9]": "E_FIELD_TYPE",
        "object[11]": "E_FIELD_MISSING",
        "object[12]": "E_FIELD_TYPE",
        "chain 99": "E_REF_NO_ANNOTATION",
    }
    messages = {r.source.record: r.message for r in shards.rejections("flickr30k", "train")}
    assert messages["object[6]"] == "bndbox.xmax: expected a number, got `wide`"
    assert "Annotations/5.xml" in messages["chain 99"]
    assert report.records_converted == 1 + 3
    assert report.records_found == report.records_converted + len(messages)
    (sample,) = shards.samples("flickr30k", "train").values()
    assert [r.box_xyxy for r in sample.regions] == [(0, 0, 64, 48), (6, 6, 7, 7)]
    assert asked(sample.conversations[0])[0][1] == "A man near a b and b"


def test_a_bad_caption_costs_itself_only(tree: Any, shards: Any) -> None:
    lines = [
        b"[/EN#12/people A man] .",
        b"[/EN#12/people A man .",
        b"[/EN#12/people A [/EN#15/other man]] .",
        b"[/EN#twelve/people A man] .",
        b"[/EN#12/people ] .",
        b"caf\xe9 .",
        b"[/EN#12/people A [ man]] .",
    ]
    source = entities(tree, {"5": (xml([MAN]), "")})
    tree.put("Sentences/5.txt", b"\xef\xbb\xbf" + b"\n".join(lines))
    convert("flickr30k", source, shards.root, max_rejects=1)
    found = shards.codes("flickr30k", "train")
    assert found == {f"line {i}": "E_FIELD_TYPE" for i in range(2, 7)}
    (sample,) = shards.samples("flickr30k", "train").values()
    assert [asked(c)[0][1] for c in sample.conversations] == ["A man.", "A [ man]."]
    assert asked(sample.conversations[1])[1][1] == "A [ man]"


def test_a_bad_file_costs_itself_only(tree: Any, shards: Any) -> None:
    sentence = "[/EN#12/people A man] .\n"
    source = entities(
        tree,
        {
            "1": (b"<annotation><object>", sentence),
            "2": (b"<html></html>", sentence),
            "3": (xml([MAN], "wide", 48), sentence),
            "4": (xml([MAN], 64, 64), sentence),  # another shape
            "5": (xml([MAN], 128, 96), sentence),  # twice the size
            "6": (xml([MAN], 0, 0), sentence),
            "7": (xml([MAN]), sentence),
            "8": (xml([MAN]), sentence),
            "9": (xml([]), ""),
            "10": (xml([MAN]), sentence),
            "11": (b" " * 300_000, sentence),
        },
    )
    (source / "Annotations/7.xml").unlink()
    (source / "Sentences/8.txt").unlink()
    (source / "flickr30k-images/10.jpg").unlink()
    with (source / "train.txt").open("a") as file:
        file.write("3\n../../etc/passwd\n")
    convert("flickr30k", source, shards.root, max_rejects=1)
    found = {(r.source.file, r.source.record): r for r in shards.rejections("flickr30k", "train")}
    assert {where: rejection.code for where, rejection in found.items()} == {
        ("Annotations/1.xml", "the file"): "E_XML_INVALID",
        ("Annotations/2.xml", "the file"): "E_XML_INVALID",
        ("Annotations/3.xml", "size"): "E_FIELD_TYPE",
        ("train.txt", "line 4"): "E_SIZE_MISMATCH",
        ("Annotations/7.xml", "the file"): "E_METADATA_MISSING",
        ("Sentences/8.txt", "the file"): "E_METADATA_MISSING",
        ("train.txt", "line 9"): "E_IMAGE_UNANNOTATED",
        ("train.txt", "line 10"): "E_IMAGE_MISSING",
        ("Annotations/11.xml", "the file"): "E_VALUE_RANGE",
        ("train.txt", "line 12"): "E_RECORD_DUPLICATE",
        ("train.txt", "line 13"): "E_FIELD_TYPE",
    }
    assert "no such file" in found["Annotations/7.xml", "the file"].message.lower()
    samples = shards.samples("flickr30k", "train")
    tasks = {name: [c.task for c in sample.conversations] for name, sample in samples.items()}
    # Without boxes the captions remain.
    for number in (1, 2, 7, 11):
        assert tasks[f"flickr30k:{number}"] == ["image-caption"]
    for number in (3, 5, 6):
        assert tasks[f"flickr30k:{number}"] == ["grounded-caption"]
    assert samples["flickr30k:5"].regions[0].box_xyxy == (0, 0, 10, 20)
    assert samples["flickr30k:3"].regions[0].box_xyxy == (0, 0, 20, 40)


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><annotation><object><name>&i;</name></object></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)


@pytest.mark.parametrize("data", [BOMB, EXTERNAL, '<!DOCTYPE a SYSTEM "a.dtd"><annotation/>'])
def test_no_entity_is_ever_declared(data: str) -> None:
    with pytest.raises(ValueError, match="DOCTYPE"):
        parse_annotation(data.encode())


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe<\0", b"<annotation>&x;</annotation>", b"<annotation><a></annotation>"]
)
def test_damaged_xml_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not well-formed"):
        parse_annotation(data)


def test_deeply_nested_xml_does_no_harm() -> None:
    data = b"<annotation>" + b"<object>" * 20_000 + b"</object>" * 20_000 + b"</annotation>"
    assert len(parse_annotation(data).objects) == 1


def test_a_sentences_spans_count_characters() -> None:
    text, phrases = parse_sentence("Zwei Räder ,  [/EN#007/vehicles/other ein rotes Rad] [/x]\n")
    assert text == "Zwei Räder , ein rotes Rad [/x]"
    assert phrases == [(13, 26, "7")]
    assert text[13:26] == "ein rotes Rad"


# --- MDETR's form ---


def entry(id: int, caption: str, **more: Any) -> dict[str, Any]:
    return {
        "file_name": "36979.jpg", "height": "48", "width": "64", "id": id, "caption": caption,
        "dataset_name": "flickr", "tokens_negative": [[0, len(caption)]], "sentence_id": id % 5,
        "original_img_id": 36979, "tokens_positive_eval": [], **more,
    }  # fmt: skip


def mark(id: int, image_id: int, bbox: list[float], spans: Any, **more: Any) -> dict[str, Any]:
    return {
        "area": 5.0, "iscrowd": 0, "image_id": image_id, "category_id": 1, "id": id,
        "bbox": bbox, "tokens_positive": spans, **more,
    }  # fmt: skip


FIRST = "A tall man with two friends ( on a hill ) holds a kite , his toy , in his hands ."
THIRD = "Ein Café , drei Räder ."


def spans(caption: str, *phrases: str) -> list[list[int]]:
    return [[caption.rindex(p), caption.rindex(p) + len(p)] for p in phrases]


MERGED = [
    # As MDETR's script writes them: 1-based, w = xmax - xmin, spans chain by chain.
    mark(0, 0, [1.0, 1.0, 19.0, 39.0], spans(FIRST, "A tall man", "his")),
    mark(1, 0, [31.0, 2.0, 29.0, 19.0], spans(FIRST, "his toy", "a kite")),
    mark(2, 0, [5.0, 10.0, 45.0, 35.0], spans(FIRST, "two friends")),
    mark(3, 2, [61.0, 41.0, 9.0, 9.0], spans(THIRD, "drei Räder")),
]


def mdetr(tree: Any, annotations: list[Any], name: str = "mergedGT_train", **images: Any) -> Path:
    table = {
        "info": [],
        "licenses": [],
        "images": [
            entry(0, FIRST),
            entry(1, "It is a <region1> beach and wind . That 's all !"),
            entry(2, THIRD),
        ],
        "annotations": annotations,
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    } | images
    tree.json(f"final_flickr_{name}.json", table)
    tree.picture("flickr30k-images/36979.jpg")
    return Path(tree.root)


def test_both_forms_become_the_same(
    tree: Any, shards: Any, source: Path, tmp_path: Path, find: Any
) -> None:
    other = type(tree)(tmp_path / "mdetr")
    convert("flickr30k", source, shards.root / "a")
    (report,) = convert("flickr30k", mdetr(other, MERGED), shards.root / "b")
    (one,) = type(shards)(shards.root / "a").samples("flickr30k", "train").values()
    (two,) = type(shards)(shards.root / "b").samples("flickr30k", "train").values()
    assert one.key == two.key
    assert one.image == two.image
    assert [r.box_xyxy for r in one.regions] == [r.box_xyxy for r in two.regions]
    assert [(c.id, c.turns) for c in one.conversations] == [
        (c.id, c.turns) for c in two.conversations
    ]
    said = find(two, "36979/grounded-caption-1").source
    assert (said.file, said.record) == ("final_flickr_mergedGT_train.json", "images[0]")
    assert [r.native_id for r in two.regions] == ["0", "1", "2", "3"]
    assert report.records_found == report.records_converted == 3 + 4


def test_the_same_box_under_several_captions_is_one_region(tree: Any, shards: Any) -> None:
    again = mark(4, 2, [1.0, 1.0, 19.0, 39.0], spans(THIRD, "Ein Café"))
    convert("flickr30k", mdetr(tree, [*MERGED, again]), shards.root)
    (sample,) = shards.samples("flickr30k", "train").values()
    assert [r.native_id for r in sample.regions] == ["0,4", "1", "2", "3"]


def test_faithful_takes_the_first_span_listed(tree: Any, shards: Any, find: Any) -> None:
    options = SourceOptions(faithful=True)
    convert("flickr30k", mdetr(tree, MERGED), shards.root, options=options)
    (sample,) = shards.samples("flickr30k", "train").values()
    answers = [answer for _, answer in asked(find(sample, "36979/grounded-caption-1"))]
    assert sorted(answers[1:]) == ["A tall man", "his toy", "two friends"]


def test_the_merged_files_go_before_the_separate_ones(tree: Any, shards: Any) -> None:
    separate = [
        mark(0, 0, [5.0, 10.0, 9.0, 10.0], spans(FIRST, "two friends")),
        mark(1, 0, [41.0, 30.0, 9.0, 15.0], spans(FIRST, "two friends")),
    ]
    mdetr(tree, MERGED)
    source = mdetr(tree, separate, "separateGT_train")
    assert [r.split for r in convert("flickr30k", source, shards.root)] == ["train"]
    convert("flickr30k", source, shards.root, splits=["train-separate"])
    (sample,) = shards.samples("flickr30k", "train-separate").values()
    assert [r.box_xyxy for r in sample.regions] == [(4, 9, 14, 20), (40, 29, 50, 45)]
    (source / "final_flickr_mergedGT_train.json").unlink()
    reports = convert("flickr30k", source, shards.root / "new")
    assert [r.split for r in reports] == ["train-separate"]


def test_every_trap_of_mdetrs_form_has_its_code(tree: Any, shards: Any) -> None:
    tree.put("UNRELATED_CAPTIONS", b"# format: <imageID> <sentence number>\n36979 3\n")
    no_spans = mark(11, 0, [1, 1, 9, 9], [])
    del no_spans["tokens_positive"]
    annotations = [
        *MERGED,
        mark(4, 77, [1, 1, 9, 9], [[0, 1]]),
        mark(5, 0, [1, 1, 9], [[0, 1]]),
        mark(6, 0, [1, 1, float("nan"), 9], [[0, 1]]),
        mark(7, 0, [1, 1, 9, 9], [[0, 1000]]),
        mark(8, 0, [1, 1, 9, 9], []),
        mark(9, 0, [1, 1, 9, 9], [[1, 2]]),
        mark(10, 0, [1, 1, -5, 9], [[0, 1]]),
        no_spans,
        mark(10**30, 0, [1, 1, 9, 9], [[3, -1]]),
        mark(12, 0, [1.7e308, 1, 1.7e308, 9], [[0, 1]]),
    ]
    images = [
        entry(0, FIRST),
        entry(1, "  "),
        entry(2, THIRD),  # unrelated
        entry(0, "again"),
        entry(3, "Another size .", width=48, height=64),
        entry(4, "No size .", width="wide"),
        entry(8, "The fourth a second time .", sentence_id=0),
        entry(9, "A dog .", sentence_id=10**9),
        {"id": 10},
        entry(11, "A dog .", file_name="../../36979.jpg", sentence_id=4),
        entry(12, "A dog .", file_name="2000.jpg", sentence_id=0),
    ]
    source = mdetr(tree, annotations, images=images)
    convert("flickr30k", source, shards.root, max_rejects=1)
    found = [(r.source.record, r.code) for r in shards.rejections("flickr30k", "train")]
    assert sorted(found) == sorted(
        [
            ("annotations[4]", "E_IMAGE_UNKNOWN"),
            ("annotations[5]", "E_FIELD_TYPE"),
            ("annotations[6]", "E_JSON_INVALID"),
            ("annotations[7]", "E_VALUE_RANGE"),
            ("annotations[8]", "E_FIELD_MISSING"),
            ("annotations[9]", "E_PHRASE_EMPTY"),
            ("annotations[10]", "E_BOX_EMPTY"),
            ("annotations[11]", "E_FIELD_MISSING"),
            ("annotations[12]", "E_VALUE_RANGE"),
            ("annotations[13]", "E_FIELD_TYPE"),
            ("images[1]", "E_PHRASE_EMPTY"),
            ("images[2]", "E_CAPTION_UNRELATED"),
            ("images[3]", "E_RECORD_DUPLICATE"),
            ("images[4]", "E_SIZE_MISMATCH"),
            ("images[5]", "E_FIELD_TYPE"),
            ("images[6]", "E_RECORD_DUPLICATE"),
            ("images[7]", "E_VALUE_RANGE"),
            ("images[8]", "E_FIELD_MISSING"),
            ("images[9]", "E_RECORD_DUPLICATE"),
            ("images[10]", "E_IMAGE_MISSING"),
        ]
    )
    samples = shards.samples("flickr30k", "train")
    assert list(samples) == ["flickr30k:36979"]
    ids = [c.id for c in samples["flickr30k:36979"].conversations]
    assert ids == ["36979/grounded-caption-1", "36979/image-caption"]


def test_a_name_that_leaves_the_folder_is_refused(tree: Any, shards: Any) -> None:
    images = [entry(0, "A dog .", file_name="../secret.jpg"), entry(1, "A cat .")]
    source = mdetr(tree, [], images=images)
    tree.picture("secret.jpg")
    convert("flickr30k", source, shards.root, max_rejects=1)
    assert shards.codes("flickr30k", "train") == {"images[0]": "E_NAME_UNSAFE"}


def test_pictures_may_lie_in_folders_of_their_split(tree: Any, shards: Any, tmp_path: Path) -> None:
    source = entities(tree, {"5": (xml([MAN]), "[/EN#12/people A man] .\n")}, "val")
    (source / "flickr30k-images/5.jpg").unlink()
    elsewhere = type(tree)(tmp_path / "flickr")
    elsewhere.picture("val/5.jpg")
    convert("flickr30k", source, shards.root, image_roots=[elsewhere.root])
    assert shards.samples("flickr30k", "val")["flickr30k:5"].image.file == "val/5.jpg"


# --- finding the files ---


def test_the_original_form_goes_before_mdetrs(tree: Any, shards: Any, source: Path) -> None:
    mdetr(tree, MERGED)
    mdetr(tree, MERGED, "mergedGT_val")
    assert [r.split for r in convert("flickr30k", source, shards.root)] == ["train"]
    (sample,) = shards.samples("flickr30k", "train").values()
    assert sample.conversations[0].source.file == "Sentences/36979.txt"


def test_another_number_of_captions_than_five_is_told_once(
    tree: Any, shards: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    five = "A kite .\n" * 5
    files = {"1": (xml([]), five), "2": (xml([]), five[:18]), "3": (xml([]), five + "\n\n")}
    source = entities(tree, files)
    (tree.root / "Sentences/3.txt").write_bytes(five.encode() + b"\n \n")
    with caplog.at_level(logging.WARNING):
        (report,) = convert("flickr30k", source, shards.root / "a")
    told = "1 of 3 pictures have another number of captions than five, the first is 2 with 2"
    assert caplog.text.count(f"train.txt: {told}") == 1
    assert (report.faults, report.kinds) == (0, {"captions": 12})
    caplog.clear()
    other = type(tree)(tmp_path / "mdetr")
    images = [entry(i, "A kite .") for i in range(4)]
    with caplog.at_level(logging.WARNING):
        convert("flickr30k", mdetr(other, [], images=images), shards.root / "b")
    assert "1 of 1 pictures have another number of captions than five, the first is" in caplog.text
    assert "36979 with 4" in caplog.text


def test_without_the_list_of_unrelated_captions_there_is_a_warning(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = entities(tree, {"36979": GOLDEN})
    with caplog.at_level(logging.WARNING):
        convert("flickr30k", source, shards.root)
    assert "UNRELATED_CAPTIONS is not there" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["notes.txt"], "expected Flickr30k's files (Annotations/, Sentences/, train.txt"),
        (["Annotations/1.xml", "train.txt"], "(Sentences/), found Annotations/, train.txt"),
        (["Annotations/1.xml", "Sentences/1.txt"], "(train.txt, val.txt, test.txt), found Anno"),
    ],
)
def test_a_folder_that_lacks_files_is_one_clear_error(
    tree: Any, shards: Any, files: list[str], expected: str
) -> None:
    for name in files:
        tree.put(name, b"x")
    with pytest.raises(UsageError) as caught:
        convert("flickr30k", tree.root, shards.root)
    assert expected in str(caught.value)
    assert caught.value.hint
