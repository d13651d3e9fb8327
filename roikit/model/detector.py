"""A detector of Hugging Face: pictures in, regions with labels and scores out.

Any model of `AutoModelForObjectDetection` with its image processor; of those that take their
classes as text, OWL-ViT and OWLv2. Boxes come back as everywhere in roikit: float xyxy, pixels of
the upright picture, clipped. Knows no folders, files of boxes or caches.

A picture is processed alone, and pictures go through the model together only where they came out
in the same shape: padding would move the boxes of models without a mask (YOLOS).
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
    MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
)

from roikit.errors import CorruptSampleError, RoikitError, UsageError
from roikit.model.detector_text import PROMPTED, Prompted, prompted
from roikit.model.device import choose_device, choose_dtype
from roikit.sample import Region

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

#: What names no class: the holes in COCO's ids, in models trained on all 91 of them.
_NO_LABEL = ("", "N/A")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_DETECTOR = "--detector takes a folder that `save_pretrained` wrote, or a name on the hub"
#: In a configuration, but without influence on a box.
_INCIDENTAL = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "architectures")


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A detector in evaluation mode, ready for pictures."""

    name: str  #: as the user gave it; of a folder, its last part
    model: Any
    image_processor: Any
    labels: dict[int, str]  #: by class index
    device: str
    dtype: torch.dtype
    text: Prompted | None  #: of a detector whose classes are text
    fingerprint: str  #: hex; equal only where weights, processing, classes and numbers are


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """One picture as the model takes it."""

    inputs: dict[str, Tensor]  #: each with a first dimension of 1, on the CPU
    image_wh: tuple[int, int]  #: of the upright picture, pixels

    @property
    def shape(self) -> str:
        """Names and shapes of the inputs: what two pictures of one batch have in common."""
        return ",".join(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in self.inputs.items())


def load_detector(
    name: str,
    *,
    classes: Sequence[tuple[str, str]] | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Detector:
    """Load a detector with its image processor.

    Weights come from safetensors where there are any, else from a pickle that may hold nothing but
    tensors (`weights_only`); a model that brings code of its own is refused.

    Args:
        name: a folder, or a model's name on the hub.
        classes: (label, words) of the classes to look for; for detectors that are asked with text.
        device: `auto` or a torch device.
        dtype: `fp32`, `bf16`, `fp16`, or `auto`: fp32 everywhere, since bf16 has eight bits and
            moves a box by pixels.

    Raises:
        UsageError: nothing there, no detector, or classes where it has its own (or none where it
            needs some).
    """
    device = choose_device(device)
    numbers = choose_dtype(dtype, auto="fp32")
    config = _read(name, AutoConfig.from_pretrained, "a model's `config.json`")
    kind = str(config.model_type)
    is_prompted = kind in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
    if not is_prompted and kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        raise UsageError(
            f"`{name}`: expected an object-detection model, found `{kind}`",
            hint="e.g. DETR, RT-DETR, Deformable DETR or YOLOS, or OWL-ViT with --classes",
        )
    if is_prompted and kind not in PROMPTED:
        raise UsageError(
            f"`{name}`: detectors of the kind `{kind}` are not supported",
            hint=f"of those asked with text: {', '.join(PROMPTED)}; else one with its own classes",
        )
    if is_prompted != (classes is not None):
        found = "classes of its own" if classes else "no classes of its own, and none are given"
        hint = "leave --classes out" if classes else "name what to look for: --classes FILE"
        raise UsageError(f"`{name}`: this detector has {found}", hint=hint)
    auto = AutoModelForZeroShotObjectDetection if is_prompted else AutoModelForObjectDetection
    model = _load_weights(name, auto, numbers).to(device).eval()
    text = None
    if classes is not None:
        processor = _read(name, AutoProcessor.from_pretrained, "a processor with a tokenizer")
        image_processor = processor.image_processor
        text = prompted(model, processor, [words for _, words in classes])
        labels = dict(enumerate(label for label, _ in classes))
    else:
        image_processor = _read(name, AutoImageProcessor.from_pretrained, "an image processor")
        labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    if not hasattr(image_processor, "post_process_object_detection"):
        raise UsageError(
            f"`{name}`: expected an image processor that gives boxes, "
            f"found `{type(image_processor).__name__}`",
            hint="is its `preprocessor_config.json` the detector's own?",
        )
    return Detector(
        name=Path(name).resolve().name if Path(name).is_dir() else name,
        model=model,
        image_processor=image_processor,
        labels=labels,
        device=device,
        dtype=numbers,
        text=text,
        fingerprint=_fingerprint(model, image_processor, labels, text),
    )


def prepare(detector: Detector, pixels: Pixels) -> Prepared:
    """Turn one picture into the model's input; may run in several threads at once.

    Args:
        detector: whose processor is used.
        pixels: (H, W, 3) RGB, upright.

    Raises:
        CorruptSampleError: the processor cannot take a picture of this shape.
    """
    height, width = pixels.shape[:2]
    try:
        batch = detector.image_processor(
            images=pixels, return_tensors="pt", input_data_format="channels_last"
        )
    except (ValueError, RuntimeError) as error:  # e.g. 1 x 5000: scaled down, it has no height
        raise CorruptSampleError(
            f"the detector's processor cannot take a picture of {width} x {height}: "
            f"{_reason(error)}"
        ) from error
    inputs = {key: batch[key] for key in sorted(batch) if isinstance(batch[key], Tensor)}
    return Prepared(inputs=inputs, image_wh=(width, height))


@torch.inference_mode()
def detect(
    detector: Detector, batch: Sequence[Prepared], *, threshold: float, max_boxes: int
) -> list[list[Region] | None]:
    """Find objects in pictures of one shape.

    Args:
        detector: the detector.
        batch: pictures with the same `shape`.
        threshold: boxes at or below this score are left out.
        max_boxes: so many a picture at most, the best.

    Returns:
        Regions a picture, best first, boxes to a hundredth of a pixel and scores to four digits:
        finer is noise. A box of less than a pixel inside the picture is none. None for a picture of
        which the model gave numbers that are not finite.

    Raises:
        RoikitError: the device's memory is too small.
    """
    assert len({picture.shape for picture in batch}) == 1
    inputs = {
        key: _moved(torch.cat([picture.inputs[key] for picture in batch]), detector)
        for key in batch[0].inputs
    }
    try:
        if detector.text is None:
            outputs = detector.model(**inputs)
        else:
            outputs = detector.text.outputs(detector.model, inputs["pixel_values"])
    except torch.OutOfMemoryError as error:
        raise RoikitError(
            f"{detector.device}: out of memory with {len(batch)} pictures at once",
            hint="give a smaller --batch-size; what is done is kept",
        ) from error
    # In fp32 and on the CPU, so that neither scaling to pixels nor thresholds add noise.
    outputs.logits = outputs.logits.float().cpu()
    outputs.pred_boxes = outputs.pred_boxes.float().cpu()
    found = detector.image_processor.post_process_object_detection(
        outputs, threshold=threshold, target_sizes=[picture.image_wh[::-1] for picture in batch]
    )
    regions: list[list[Region] | None] = []
    for i, one in enumerate(found):
        # Masked logits are -inf, rightly; a box never is.
        is_finite = outputs.pred_boxes[i].isfinite().all() and not outputs.logits[i].isnan().any()
        own = _regions(detector.labels, one, batch[i].image_wh)[:max_boxes] if is_finite else None
        regions.append(own)
    return regions


def region_proposer(
    detector: Detector, *, threshold: float, max_boxes: int
) -> Callable[[Pixels], list[Region]]:
    """Return a plain function from an upright RGB picture, (H, W, 3), to its regions."""

    def propose(pixels: Pixels) -> list[Region]:
        (regions,) = detect(
            detector, [prepare(detector, pixels)], threshold=threshold, max_boxes=max_boxes
        )
        return regions or []

    return propose


def _regions(
    labels: dict[int, str], found: dict[str, Any], image_wh: tuple[int, int]
) -> list[Region]:
    """Clip, round and order one picture's boxes."""
    boxes_xyxy = found["boxes"].double().numpy().reshape(-1, 4)
    boxes_xyxy = np.clip(boxes_xyxy, 0, np.array((*image_wh, *image_wh))).round(2)
    scores = found["scores"].double().numpy().round(4)
    rows = []
    for box, score, index in zip(
        boxes_xyxy.tolist(), scores.tolist(), found["labels"].tolist(), strict=True
    ):
        label = labels.get(int(index), "").strip()
        if label not in _NO_LABEL and box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            rows.append((-score, label, box))
    return [
        Region(box_xyxy=(x0, y0, x1, y1), label=label, origin="detector", score=-negative)
        for negative, label, (x0, y0, x1, y1) in sorted(rows)
    ]


def _moved(tensor: Tensor, detector: Detector) -> Tensor:
    dtype = detector.dtype if tensor.is_floating_point() else None
    return tensor.to(detector.device, dtype)


def _read(name: str, read: Callable[..., Any], expected: str, **options: Any) -> Any:
    """Read a part of a model, and say in one line why it cannot be read.

    What lies in the hub's local cache is taken as it is: the same command finds the same boxes
    tomorrow, and no network is waited for.
    """
    is_local = Path(name).exists()
    if not is_local and not _HUB_NAME.fullmatch(name):
        raise UsageError(f"`{name}`: no such folder", hint=_DETECTOR)
    try:
        try:
            return read(name, trust_remote_code=False, local_files_only=True, **options)
        except OSError:
            if is_local:
                raise
        log.warning("%s: %s is not in the local cache; looking on the hub", name, expected)
        return read(name, trust_remote_code=False, **options)
    except ImportError as error:
        raise UsageError(
            f"`{name}`: this detector needs a package that is missing: {_reason(error)}",
            hint="for a backbone of timm: `pip install 'roikit[detect]'`",
        ) from error
    except Exception as error:  # files of strangers: damaged ones raise whatever they like
        if is_local:
            raise UsageError(
                f"`{name}`: expected {expected}: {_reason(error)}", hint=_DETECTOR
            ) from error
        raise UsageError(
            f"`{name}`: no such folder, and {expected} is neither in the local cache nor on the "
            f"hub: {_reason(error)}",
            hint="without a network: download it elsewhere, and name the folder",
        ) from error


def _load_weights(name: str, auto: Any, dtype: torch.dtype) -> Any:
    model, loaded = _read(
        name, auto.from_pretrained, "a detector's weights", dtype=dtype, output_loading_info=True
    )
    # transformers fills what is missing with random numbers and goes on.
    missing = {key for key in loaded["missing_keys"] if not key.endswith("num_batches_tracked")}
    missing |= {str(key) for key in loaded["mismatched_keys"]}
    if missing:
        raise UsageError(
            f"`{name}`: its weights lack {len(missing)} tensors of a `{type(model).__name__}`, "
            f"such as `{min(missing)}`",
            hint="is it a backbone that was never trained to detect?",
        )
    return model


def _fingerprint(
    model: Any, image_processor: Any, labels: dict[int, str], text: Prompted | None
) -> str:
    """Hash everything that decides on boxes but thresholds: weights as loaded, not their files."""
    digest = hashlib.sha256()
    described = [
        _plain(model.config.to_dict()),
        _plain(image_processor.to_dict()),
        labels,
        text.input_ids if text else None,
    ]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(settings: Any) -> Any:
    """Leave out, at every depth, what depends on where and by whom a configuration was written."""
    if not isinstance(settings, dict):
        return settings
    return {str(k): _plain(v) for k, v in settings.items() if k not in _INCIDENTAL}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
