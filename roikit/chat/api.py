"""roikit from Python: load a model, ask about boxes on a picture.

>>> from roikit import load
>>> model = load("runs/stage2")                                         # doctest: +SKIP
>>> model.ask("photo.jpg", "What is <region1>?", boxes=[(10, 20, 300, 400)])  # doctest: +SKIP
>>> session = model.session("photo.jpg")                                # doctest: +SKIP
>>> session.add_region((10, 20, 300, 400)); session.ask("What is it?")  # doctest: +SKIP

Importing this module does not import torch; `load` does.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from roikit.chat.parsing import BoxLike, PointLike
from roikit.chat.picture import ImageLike
from roikit.chat.session import Decoding, Session
from roikit.masks import MaskLike
from roikit.prompt import Prompt

if TYPE_CHECKING:
    from roikit.model.generate import LoadedModel


class Model:
    """A loaded model that can be asked about regions of pictures.

    Args:
        loaded: model and processor, as `roikit.model.generate.load_model` returns them.
    """

    def __init__(self, loaded: "LoadedModel") -> None:
        self.loaded = loaded

    def ask(
        self,
        image: ImageLike,
        text: str,
        *,
        boxes: Sequence[BoxLike] = (),
        points: Sequence[PointLike] = (),
        masks: Sequence[MaskLike] = (),
        box_format: str = "xyxy",
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """Ask one question about a picture and return the answer.

        Args:
            image: a path, encoded bytes, a PIL image or an (H, W, 3) uint8 RGB array.
            text: names the regions as `<region1>`, `region1` or `region 1`, boxes first, then
                points, then masks; one that names none is about the last region.
            boxes: four numbers each, pixels of the upright picture; or fractions of its width and
                height, where all four are floats of at most 1.
            points: two numbers each, in the same units.
            masks: (H, W) booleans of the picture's size each, or runs in COCO's form.
            box_format: `xyxy` (right and bottom edge exclusive) or `xywh`.
            max_new_tokens: where a long answer is cut.
            temperature: 0 takes the likeliest token each time.
            seed: of the sampling; without effect at temperature 0.

        Raises:
            UsageError: the picture, a region or a mention is not what it should be.
        """
        session = self.session(
            image,
            boxes=boxes,
            points=points,
            masks=masks,
            box_format=box_format,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        return session.ask(text)

    def session(
        self,
        image: ImageLike,
        *,
        boxes: Sequence[BoxLike] = (),
        points: Sequence[PointLike] = (),
        masks: Sequence[MaskLike] = (),
        box_format: str = "xyxy",
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Session:
        """Open a conversation about a picture; the arguments are those of `ask`."""
        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return Session(
            self,
            image,
            boxes=boxes,
            points=points,
            masks=masks,
            box_format=box_format,
            decoding=decoding,
        )

    def answer(self, prompt: Prompt, *, max_new_tokens: int, temperature: float, seed: int) -> str:
        """Return the answer to a prompt as record text (`<region2>`)."""
        from roikit.model.generate import generate

        return generate(
            self.loaded,
            [prompt],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )[0]

    def stream(
        self, prompt: Prompt, *, max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[str]:
        """Yield the answer's pieces as plain text (`region2`)."""
        from roikit.model.generate import stream_answer

        return stream_answer(
            self.loaded,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )


def load(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Model:
    """Load a trained model.

    Args:
        path: a training run's folder, or a model's (`config.json` and weights).
        device: `auto` (CUDA, then MPS, then CPU) or a torch device such as `cuda:1`.
        dtype: `fp32`, `bf16`, `fp16`, or `auto` (bf16 on CUDA, else fp32).

    Raises:
        UsageError: no model there, or one that cannot be read.
    """
    from roikit.model.generate import load_model

    return Model(load_model(path, device=device, dtype=dtype))
