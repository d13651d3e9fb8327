"""From prompts to the model's inputs, in training, evaluation and chat alike.

A picture and its boxes go through one function together. Tokens come with a mask of the assistant's
words, from the chat template's generation marks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from roikit import boxes as box_ops
from roikit.errors import RoikitError
from roikit.masks import box_masks
from roikit.model.box_text import character_ids, write_boxes
from roikit.model.transform import cut_tiles, lay
from roikit.prompt import (
    IMAGE_TOKEN,
    REGION_TOKEN,
    Prompt,
    Rendered,
    guard,
    render,
    render_answer,
    special_token_names,
    split_guards,
)
from roikit.sample import Region
from roikit.tiles import TileRule
from roikit.views import View, gather


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One conversation, ready to be put into a batch."""

    input_ids: list[int]
    assistant_mask: list[bool]  #: True on the assistant's words and end-of-turn tokens
    region_order: tuple[int, ...]  #: record numbers of the regions, in order of their tokens


class RoikitProcessor(ProcessorMixin):
    """Tokenizer, picture transform and prompt renderer of a model.

    Args:
        tokenizer: fast, with a marked chat template and the tokens of the two placeholders.
        image_size: side of the square input, pixels.
        image_mode: `pad` keeps the aspect ratio (letterbox), `squash` stretches as GPT4RoI does.
        image_mean: a channel, of values 0 to 1.
        image_std: a channel.
        num_image_tokens: tokens of a picture.
        num_region_tokens: tokens of a region.
        image_token: the tokenizer's name for one image token's place, where the chat template
            writes another one than `IMAGE_TOKEN`.
        region_token: likewise, for `REGION_TOKEN`.
        max_tiles: tiles that a large picture is cut into for its regions; 1: none.
        tile_margin: pixels around a region that its features depend on: a cell of the coarsest.
        region_reach: how far beyond its box a region is read, in sides of the box.
        use_masks: a region that has a mask is read through it.
        boxes_as_text: the model has no region features: boxes are written into the prompt.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 (the base class's form)
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 224,
        image_mode: str = "pad",
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        num_image_tokens: int = 196,
        num_region_tokens: int = 9,
        image_token: str = IMAGE_TOKEN,
        region_token: str = REGION_TOKEN,
        max_tiles: int = 1,
        tile_margin: int = 32,
        region_reach: float = 0.0,
        use_masks: bool = True,
        boxes_as_text: bool = False,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.image_mode = image_mode
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.num_image_tokens = num_image_tokens
        self.num_region_tokens = num_region_tokens
        self.image_token = image_token
        self.region_token = region_token
        self.max_tiles = max_tiles
        self.tile_margin = tile_margin
        self.region_reach = region_reach
        self.use_masks = use_masks
        self.boxes_as_text = boxes_as_text
        super().__init__(tokenizer, **kwargs)
        if tokenizer is not None:
            self.image_token_id: int = tokenizer.convert_tokens_to_ids(image_token)
            self.region_token_id: int = tokenizer.convert_tokens_to_ids(region_token)
            self.special_tokens = special_token_names(tokenizer)
            self._box_ids = character_ids(tokenizer) if boxes_as_text else {}

    def view(
        self,
        image: npt.NDArray[np.uint8],
        boxes_xyxy: npt.ArrayLike,
        masks_RMM: npt.NDArray[np.float32] | None = None,
    ) -> View:
        """Bring a picture and its boxes to the input square together.

        Args:
            image: (H, W, 3) RGB, upright.
            boxes_xyxy: (R, 4) pixels of that picture, in the order of their tokens; what lies
                outside of it is cut off.
            masks_RMM: of the regions, each over its box, as `region_masks` gives them.

        Raises:
            ValidationError: a box that has no area in the picture.
        """
        height, width = image.shape[:2]
        box_ops.check_area(boxes_xyxy, (width, height))
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        boxes = box_ops.as_boxes(boxes_xyxy)
        square = (self.image_size, self.image_size)
        fill = [round(255 * mean) for mean in self.image_mean]  # zero once normalised
        pixels, boxes_R4 = lay(picture, boxes, square, mode=self.image_mode, fill=fill)
        masks = None
        if masks_RMM is not None:  # torch takes no mirrored view
            masks = torch.from_numpy(np.ascontiguousarray(masks_RMM))
        return View(
            pixels_3SS=pixels,
            boxes_R4=boxes_R4,
            masks_RMM=masks,
            tiles=cut_tiles(picture, boxes, self.tile_rule, fill=fill),
        )

    @property
    def tile_rule(self) -> TileRule:
        """How large pictures are cut."""
        return TileRule(
            side=self.image_size,
            most=self.max_tiles,
            mode="squash" if self.image_mode == "squash" else "pad",
            margin_px=self.tile_margin,
            reach=self.region_reach,
        )

    def region_masks(
        self, regions: Sequence[Region], image_wh: tuple[int, int]
    ) -> npt.NDArray[np.float32] | None:
        """Return the masks that the model reads regions through; None where it reads none.

        Raises:
            ValidationError: a mask is not the picture's.
        """
        if self.boxes_as_text or not self.use_masks:
            return None
        return box_masks(regions, image_wh)

    def write_boxes(
        self, encoded: "Encoded", boxes_xyxy: npt.ArrayLike, image_wh: tuple[int, int]
    ) -> "Encoded":
        """Put boxes into the places of their tokens, where the model reads boxes as text.

        Args:
            encoded: with placeholders; where regions are features it stays as it is.
            boxes_xyxy: (R, 4) pixels of the picture as the model will see it, in the order of their
                tokens.
            image_wh: that picture's.

        Raises:
            ValidationError: a box that has no area in the picture.
        """
        if not self.boxes_as_text:
            return encoded
        box_ops.check_area(boxes_xyxy, image_wh)
        side = self.image_size
        resize, _ = box_ops.fit(image_wh, (side, side), mode=self.image_mode)
        input_ids = write_boxes(
            encoded.input_ids,
            np.clip(resize.apply(boxes_xyxy) / side, 0.0, 1.0),
            region_token_id=self.region_token_id,
            ids=self._box_ids,
        )
        return replace(encoded, input_ids=input_ids)

    def normalise(self, pixels_B3SS: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 to float32, with the tower's mean and deviation."""
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.image_mean, device=pixels_B3SS.device).view(shape)
        std = torch.tensor(self.image_std, device=pixels_B3SS.device).view(shape)
        return (pixels_B3SS.float() / 255 - mean) / std

    def encode(self, rendered: Rendered, *, add_generation_prompt: bool = False) -> Encoded:
        """Tokenise chat messages; placeholders come out as many as the model needs."""
        texts, spans = render_jinja_template(
            conversations=[[dict(message) for message in rendered.messages]],
            chat_template=self.tokenizer.chat_template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=add_generation_prompt,
            **self.tokenizer.special_tokens_map,
        )
        ids: list[int] = []
        mask: list[bool] = []
        starts = [first for first, _ in spans[0]]  # spans ascend and do not overlap
        for piece, start, guarded in _pieces(texts[0], rendered.guarded):
            encoding = self.tokenizer(
                piece,
                add_special_tokens=False,
                return_offsets_mapping=True,
                split_special_tokens=guarded,
            )
            for token, (first, _) in zip(
                encoding["input_ids"], encoding["offset_mapping"], strict=True
            ):
                # a guarded piece lies wholly inside one message: its start decides for all of it
                place = start if guarded else start + first
                before = bisect_right(starts, place)
                spoken = before > 0 and place < spans[0][before - 1][1]
                count = self._expansion(token)
                if count == 1:
                    ids.append(token)
                    mask.append(spoken)
                else:
                    ids += [token] * count
                    mask += [spoken] * count
        return Encoded(input_ids=ids, assistant_mask=mask, region_order=rendered.region_order)

    def _expansion(self, token: int) -> int:
        if token == self.image_token_id:
            return self.num_image_tokens
        return self.num_region_tokens if token == self.region_token_id else 1

    def encode_prompt(
        self, prompt: Prompt, *, options: Sequence[str] = (), max_tokens: int | None = None
    ) -> Encoded:
        """Tokenise a prompt up to where the assistant speaks.

        A prompt of more than `max_tokens` loses its oldest exchanges; regions still spoken of are
        introduced anew, since the first mention that is left carries their features. Boxes that
        are text are in their places.

        Raises:
            RoikitError: the last question alone is too long.
        """
        turns = prompt.turns
        while True:
            rendered = render(
                turns,
                num_regions=len(prompt.regions),
                special_tokens=self.special_tokens,
                options=options,
            )
            encoded = self.encode(rendered, add_generation_prompt=True)
            if max_tokens is None or len(encoded.input_ids) <= max_tokens:
                height, width = prompt.image.shape[:2]
                boxes = ordered_boxes(prompt.regions, encoded.region_order)
                return self.write_boxes(encoded, boxes, (width, height))
            if len(turns) <= 2:
                raise RoikitError(
                    f"prompt: {len(encoded.input_ids)} tokens, the model's context leaves room for "
                    f"{max_tokens}",
                    hint="ask about fewer regions at once, or allow a shorter answer",
                )
            turns = turns[2:]

    def encode_answer(self, encoded: Encoded, text: str) -> list[int]:
        """Tokenise an answer to an encoded prompt, its end of turn included, as training does.

        Args:
            encoded: of `encode_prompt`.
            text: record text; it may mention the regions that the prompt introduced.
        """
        words, guarded = guard(
            render_answer(text, encoded.region_order), special_tokens=self.special_tokens
        )
        messages = ({"role": "user", "content": ""}, {"role": "assistant", "content": words})
        answered = self.encode(Rendered(messages=messages, region_order=(), guarded=guarded))
        pairs = zip(answered.input_ids, answered.assistant_mask, strict=True)
        return [token for token, spoken in pairs if spoken]

    def __call__(self, prompts: Sequence[Prompt], *, left_pad: bool = True) -> dict[str, Tensor]:
        """Turn prompts into the arguments of `generate`.

        Returns:
            input_ids, attention_mask, and `Views.model_inputs`.
        """
        return self.batch(prompts, [self.encode_prompt(p) for p in prompts], left_pad=left_pad)

    def batch(
        self, prompts: Sequence[Prompt], encoded: Sequence[Encoded], *, left_pad: bool = True
    ) -> dict[str, Tensor]:
        """Pad encoded prompts and transform their pictures."""
        views = [
            self._view_of(prompt, encoding.region_order)
            for prompt, encoding in zip(prompts, encoded, strict=True)
        ]
        input_ids, attention_mask = pad(
            [e.input_ids for e in encoded], value=self.pad_token_id, left=left_pad
        )
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            **gather(views).model_inputs(self.normalise),
        }

    def _view_of(self, prompt: Prompt, region_order: Sequence[int]) -> View:
        height, width = prompt.image.shape[:2]
        introduced = [prompt.regions[n - 1] for n in region_order]
        return self.view(
            prompt.image,
            ordered_boxes(prompt.regions, region_order),
            self.region_masks(introduced, (width, height)),
        )

    @property
    def pad_token_id(self) -> int:
        """Id that fills rows up; masked wherever it stands."""
        pad_id = self.tokenizer.pad_token_id
        return cast(int, self.tokenizer.eos_token_id if pad_id is None else pad_id)


def ordered_boxes(
    regions: Sequence[Region], region_order: Sequence[int]
) -> npt.NDArray[np.float64]:
    """(N, 4) pixel boxes of the regions a prompt introduces, in order of their tokens."""
    return box_ops.as_boxes([regions[n - 1].box_xyxy for n in region_order])


def pad(rows: Sequence[Sequence[int]], *, value: int, left: bool) -> tuple[Tensor, Tensor]:
    """(B, T) rows filled up to the longest, and the mask that is 1 where there was something."""
    longest = max(map(len, rows))
    filled = torch.full((len(rows), longest), value, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        filled[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return filled, mask


def _pieces(text: str, guarded: Sequence[str]) -> list[tuple[str, int, bool]]:
    """(text, where it starts in the rendered string, whether it is a guarded literal)."""
    pieces = []
    position = 0
    for piece, index in split_guards(text):
        if index is None:
            pieces.append((piece, position, False))
            position += len(piece)
        else:
            pieces.append((guarded[index], position, True))
            position += len(str(index)) + 2  # the guard itself, between its two marks
    return pieces
