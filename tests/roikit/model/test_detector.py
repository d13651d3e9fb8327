import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roikit.errors import CorruptSampleError, UsageError
from roikit.model.detector import detect, load_detector, prepare, region_proposer
from roikit.sample import Region

MakeDetector = Callable[..., Path]


def noise(width: int, height: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def found(detector: Any, pictures: list[Any], **settings: Any) -> list[list[Region] | None]:
    settings = {"threshold": 0.2, "max_boxes": 100, **settings}
    return detect(detector, [prepare(detector, one) for one in pictures], **settings)


def test_a_box_lies_where_the_detector_saw_it(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector(box=(0.5, 0.25, 0.5, 0.25))))
    assert found(detector, [noise(60, 40)]) == [
        [Region(box_xyxy=(15, 5, 45, 15), label="dog", origin="detector", score=0.7112)]
    ]
    assert found(detector, [noise(60, 40)], threshold=0.72) == [[]]


def test_boxes_are_cut_off_at_the_edge_and_slivers_are_none(make_detector: MakeDetector) -> None:
    over = load_detector(str(make_detector(box=(0.1, 0.9, 0.4, 0.6))))
    ((region,),) = found(over, [noise(100, 50)])
    assert region.box_xyxy == (0, 30, 30, 50)
    sliver = load_detector(str(make_detector(box=(0.5, 0.5, 0.5, 0.009))))
    assert found(sliver, [noise(100, 100)]) == [[]]


def test_regions_are_ordered_by_score_and_the_best_are_kept(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector()))
    (all_of_them,) = found(detector, [noise(60, 40)], threshold=0.05)
    assert all_of_them is not None and len(all_of_them) > 3
    scores = [region.score or 0 for region in all_of_them]
    assert scores == sorted(scores, reverse=True)
    assert len({region.box_xyxy for region in all_of_them}) > 3
    (best,) = found(detector, [noise(60, 40)], threshold=0.05, max_boxes=2)
    assert best == all_of_them[:2]


def test_what_the_detector_calls_na_names_nothing(make_detector: MakeDetector) -> None:
    folder = make_detector(box=(0.5, 0.5, 0.5, 0.5))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "N/A"
    (folder / "config.json").write_text(json.dumps(config))
    assert found(load_detector(str(folder)), [noise(60, 40)]) == [[]]


@pytest.mark.parametrize("kind", ["yolos", "detr"])
def test_what_shares_a_batch_does_not_move_boxes(make_detector: MakeDetector, kind: str) -> None:
    detector = load_detector(str(make_detector(kind=kind)))
    pictures = [noise(60, 40, seed) for seed in range(5)]
    together = found(detector, pictures, threshold=0.05)
    boxes = set()
    for one, regions in zip(pictures, together, strict=True):
        (alone,) = found(detector, [one], threshold=0.05)
        assert alone and regions and len(alone) == len(regions)
        for a, b in zip(alone, regions, strict=True):
            assert a.label == b.label
            assert a.box_xyxy == pytest.approx(b.box_xyxy, abs=0.02)
            assert a.score == pytest.approx(b.score, abs=2e-4)
            boxes.add(a.box_xyxy)
    assert len(boxes) > 5, "the detector sees no difference between pictures"


def test_pictures_of_other_shapes_do_not_share_a_batch(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector()))
    shapes = {prepare(detector, noise(*wh)).shape for wh in ((60, 40), (120, 80), (40, 60))}
    assert len(shapes) == 2


def test_a_picture_that_the_processor_cannot_take_is_named(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector()))
    with pytest.raises(CorruptSampleError, match="cannot take a picture of 5000 x 1: "):
        prepare(detector, noise(5000, 1))


def test_numbers_that_are_not_finite_are_no_boxes(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector()))
    good, bad = prepare(detector, noise(60, 40)), prepare(detector, noise(60, 40, 1))
    bad.inputs["pixel_values"][:] = torch.nan
    first, second = detect(detector, [good, bad], threshold=0.05, max_boxes=9)
    assert first
    assert second is None


def test_a_proposer_is_a_function_from_a_picture_to_regions(make_detector: MakeDetector) -> None:
    detector = load_detector(str(make_detector()))
    propose = region_proposer(detector, threshold=0.05, max_boxes=3)
    assert [propose(noise(60, 40))] == found(detector, [noise(60, 40)], threshold=0.05, max_boxes=3)


def test_a_backbone_of_timm_needs_no_hub(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

    config = DetrConfig(
        **{"backbone": "resnet18", "use_timm_backbone": True, "num_queries": 5, "d_model": 32},
        **{"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    DetrForObjectDetection(config).save_pretrained(tmp_path)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # as the models published on the hub name it, weights of the backbone included
    del written["backbone_config"]
    written |= {"backbone": "resnet18", "use_timm_backbone": True, "use_pretrained_backbone": True}
    (tmp_path / "config.json").write_text(json.dumps(written))
    (regions,) = found(load_detector(str(tmp_path)), [noise(60, 40)], threshold=0)
    assert regions


# --- fingerprints ---


def test_a_fingerprint_is_of_what_the_detector_does(make_detector: MakeDetector) -> None:
    folder = make_detector()
    first = load_detector(str(folder)).fingerprint
    elsewhere = Path(shutil.copytree(folder, folder.parent / "copy"))
    assert load_detector(str(elsewhere)).fingerprint == first
    assert load_detector(str(make_detector("again"))).fingerprint == first
    assert load_detector(str(make_detector("other", seed=1))).fingerprint != first
    assert load_detector(str(folder), dtype="bf16").fingerprint != first
    settings = json.loads((elsewhere / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.5, 0.5, 0.5]
    (elsewhere / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_detector(str(elsewhere)).fingerprint != first


# --- what is refused ---


def damaged(folder: Path, damage: str) -> Path:
    weights = folder / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif damage == "config of something else":
        (folder / "config.json").write_text('{"model_type": "vit"}')
    elif damage == "config of nothing":
        (folder / "config.json").write_text("{")
    elif damage == "no detector's head":
        from safetensors.torch import load_file, save_file

        kept = {k: v for k, v in load_file(weights).items() if "bbox_predictor" not in k}
        save_file(kept, weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut off", "tiny-detector`: expected a detector's weights: "),
        ("no weights", "tiny-detector`: expected a detector's weights: .*safetensors"),
        ("no processor", "tiny-detector`: expected an image processor: "),
        ("config of something else", "expected an object-detection model, found `vit`"),
        ("config of nothing", "tiny-detector`: expected a model's `config.json`: "),
        ("no detector's head", "lack 6 tensors of a `YolosForObjectDetection`, such as `bbox_"),
    ],
)
def test_what_is_no_detector_is_refused_in_one_line(
    make_detector: MakeDetector, damage: str, said: str
) -> None:
    folder = damaged(make_detector(), damage)
    with pytest.raises(UsageError, match=said) as refused:
        load_detector(str(folder))
    assert "\n" not in str(refused.value)
    assert refused.value.hint


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pickle-was-run"),))


def test_a_pickle_that_runs_something_is_refused(
    make_detector: MakeDetector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = make_detector()
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Payload()}, folder / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="expected a detector's weights"):
        load_detector(str(folder))
    assert not Path("pickle-was-run").exists()
    pickle.loads(pickle.dumps(Payload()))  # it would have been seen
    assert Path("pickle-was-run").exists()


def test_a_name_that_is_nowhere_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(*_: Any, local_files_only: bool = False, **__: Any) -> Any:
        raise OSError("no such thing" if local_files_only else "no network\nat all")

    monkeypatch.setattr("roikit.model.detector.AutoConfig.from_pretrained", nowhere)
    with pytest.raises(UsageError, match=r"neither in the local cache nor on the hub: no network$"):
        load_detector("somebody/some-detector")
    with pytest.raises(UsageError, match=r"/detr`: no such folder$"):
        load_detector(str(tmp_path / "detr"))


def test_devices_and_numbers_that_are_not_there_are_refused(make_detector: MakeDetector) -> None:
    folder = str(make_detector())
    with pytest.raises(UsageError, match="device: `cuda:99` cannot be used: "):
        load_detector(folder, device="cuda:99")
    with pytest.raises(UsageError, match="device: `gpu` cannot be used: "):
        load_detector(folder, device="gpu")
    with pytest.raises(UsageError, match="dtype: expected auto, fp32, bf16, fp16, got `int8`"):
        load_detector(folder, dtype="int8")
    with pytest.raises(UsageError, match="this detector has classes of its own"):
        load_detector(folder, classes=[("cat", "cat")])


# --- detectors that are asked with text ---


@pytest.fixture(params=["owlvit", "owlv2"])
def owl(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    import transformers as tr

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["!", *letters, *(letter + "</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = tr.CLIPTokenizer(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"), model_max_length=32
    )
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["intermediate_size"] = 64
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    parts = {
        "text_config": {
            **small, **ends, "vocab_size": len(tokens), "max_position_embeddings": 32,
        },
        "vision_config": {**small, "image_size": 64, "patch_size": 16},
        "projection_dim": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    if request.param == "owlvit":
        model: Any = tr.OwlViTForObjectDetection(tr.OwlViTConfig(**parts))
        processor: Any = tr.OwlViTProcessor(
            tr.OwlViTImageProcessor(size={"height": 64, "width": 64}), tokenizer
        )
    else:
        model = tr.Owlv2ForObjectDetection(tr.Owlv2Config(**parts))
        processor = tr.Owlv2Processor(
            tr.Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer
        )
    with torch.no_grad():  # as drawn, every box is as wide as the picture or has no width
        for parameter in model.box_head.parameters():
            parameter.mul_(0.05)
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


CLASSES = [("bat_(animal)", "bat"), ("cat", "cat"), ("dog", "dog")]


def test_words_give_what_the_whole_model_gives(owl: Path) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    detector = load_detector(str(owl), classes=CLASSES)
    picture = noise(60, 40)
    (regions,) = found(detector, [picture], threshold=0.01)
    processor = AutoProcessor.from_pretrained(owl)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(owl).eval()
    words = [f"a photo of a {word}" for _, word in CLASSES]
    inputs = processor(text=[words], images=[picture], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.01, target_sizes=[(40, 60)], text_labels=[words]
    )
    boxes_xyxy = np.clip(expected["boxes"].numpy(), 0, (60, 40, 60, 40))
    rows = [
        (-round(score, 4), CLASSES[index][0], tuple(box))
        for box, score, index in zip(
            boxes_xyxy.tolist(),
            expected["scores"].tolist(),
            expected["labels"].tolist(),
            strict=True,
        )
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1
    ]
    assert regions and len(regions) == len(rows) > 3
    for region, (score, label, box) in zip(regions, sorted(rows), strict=True):
        assert (region.score, region.label) == (-score, label)
        assert region.box_xyxy == pytest.approx(box, abs=0.01)


def test_other_words_are_another_detector(owl: Path) -> None:
    first = load_detector(str(owl), classes=CLASSES)
    assert load_detector(str(owl), classes=CLASSES).fingerprint == first.fingerprint
    assert load_detector(str(owl), classes=CLASSES[:2]).fingerprint != first.fingerprint
    with pytest.raises(UsageError, match="no classes of its own, and none are given"):
        load_detector(str(owl))
