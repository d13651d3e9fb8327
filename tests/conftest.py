"""What tests of several parts share."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.stores import memory, s3, s3_server  # noqa: F401 (fixtures)

# Whoever starts the tests in the background of a script has them ignore Ctrl-C, and every process
# they start as well: what is tested here is what a terminal gives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MakeDetector = Callable[..., Path]


@pytest.fixture
def make_detector(tmp_path: Path) -> MakeDetector:
    """Return a function that saves a tiny detector and returns its folder.

    Args of the function: the folder's `name`; `kind`, `yolos` or `detr`; `seed` of its weights,
    which are wide enough for boxes that differ from picture to picture; with `box` (centre, width
    and height in shares) it finds one dog, there, in any picture (score 0.7112).
    """

    def make(
        name: str = "tiny-detector",
        *,
        kind: str = "yolos",
        seed: int = 0,
        box: Sequence[float] | None = None,
    ) -> Path:
        import torch

        torch.manual_seed(seed)
        model, processor = _yolos(num_boxes=10 if box is None else 1)
        if kind == "detr":
            model, processor = _detr()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=2 / parameter[0].numel() ** 0.5)
            if box is not None:
                where, what = (
                    model.bbox_predictor.layers[-1],
                    model.class_labels_classifier.layers[-1],
                )
                where.weight.zero_()
                where.bias.copy_(torch.logit(torch.tensor(box)))
                what.weight.zero_()
                what.bias.copy_(torch.tensor([2.0, 0, 0, 0]))
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


_CLASSES: dict[str, Any] = {"id2label": {0: "dog", 1: "cat", 2: "frisbee"}}


def _yolos(num_boxes: int) -> tuple[Any, Any]:
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        **_CLASSES,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_hidden_layers=2,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=num_boxes,
        use_mid_position_embeddings=False,
    )
    processor = YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return YolosForObjectDetection(config), processor


def _detr() -> tuple[Any, Any]:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    config = DetrConfig(
        **_CLASSES,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
    )
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return DetrForObjectDetection(config), processor
