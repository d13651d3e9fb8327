"""What a process computes whose share of a micro-batch is empty: the others wait for its part."""

import torch

from roikit.batch import Batch, Row, collate
from roikit.model.processing import RoikitProcessor
from roikit.views import View


def idle_batch(processor: RoikitProcessor) -> Batch:
    """Return one picture with one region and nothing to learn, so that its loss is 0.

    Everything that can learn takes part in it, with gradients of 0.
    """
    places = processor.num_image_tokens * [processor.image_token_id]
    places += processor.num_region_tokens * [processor.region_token_id]
    side = processor.image_size
    row = Row(
        input_ids=places,
        labels=[-100] * len(places),
        view=View(
            pixels_3SS=torch.zeros(3, side, side, dtype=torch.uint8),
            boxes_R4=torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        ),
        key="idle",
    )
    return collate([[row]], pad_token_id=processor.pad_token_id)
