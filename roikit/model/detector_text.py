"""Detectors that are told in words what to look for: OWL-ViT and OWLv2.

The words are embedded once, not once a picture: LVIS has 1,203 classes, and the text tower would
otherwise do most of the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

#: The kinds that are supported. Grounding DINO reads all classes as one text of 256 tokens.
PROMPTED = ("owlvit", "owlv2")
#: Source: Minderer et al., Simple Open-Vocabulary Object Detection (arXiv 2205.06230), section 4.
_WORDING = "a photo of a {}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompted:
    """The classes, as the text tower sees them."""

    input_ids: list[list[int]]
    embeds_QD: Tensor  #: one query a class

    def outputs(self, model: Any, pixels_BCHW: Tensor) -> SimpleNamespace:
        """Do what the model's `forward` does after its text tower."""
        features_BHWD = model.image_embedder(pixel_values=pixels_BCHW)[0]
        features_BPD = features_BHWD.flatten(1, 2)
        embeds_BQD = self.embeds_QD.expand(len(pixels_BCHW), -1, -1)
        logits_BPQ, _ = model.class_predictor(features_BPD, embeds_BQD)
        boxes_BP4 = model.box_predictor(features_BPD, features_BHWD)
        return SimpleNamespace(logits=logits_BPQ, pred_boxes=boxes_BP4)


@torch.inference_mode()
def prompted(model: Any, processor: Any, words: Sequence[str]) -> Prompted:
    """Embed the words of all classes.

    Args:
        model: an OWL-ViT or OWLv2, where it is to run.
        processor: its processor, tokenizer included.
        words: of each class, as a person would say it.
    """
    text = processor(text=[_WORDING.format(one) for one in words], return_tensors="pt")
    side_px = model.config.vision_config.image_size
    # `forward` wants a picture; what is on it does not matter to the words.
    blank = torch.zeros(1, 3, side_px, side_px, device=model.device, dtype=model.dtype)
    outputs = model(
        input_ids=text["input_ids"].to(model.device),
        attention_mask=text["attention_mask"].to(model.device),
        pixel_values=blank,
    )
    return Prompted(input_ids=text["input_ids"].tolist(), embeds_QD=outputs.text_embeds[0])
