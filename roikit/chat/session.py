"""A conversation about one picture: named regions, turns, and answers as they are spoken.

A `Session` holds the picture, the regions that were drawn on it (region1, region2, … in the order
they came) and the turns, in the record's own form, so that it can be saved as a roikit sample and
taken up again. It knows a model only as an `Answerer`, and no terminal. How much of a long
dialogue the model still sees is the prompt renderer's business.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from roikit import boxes as box_ops
from roikit import draw
from roikit.chat.parsing import (
    BoxLike,
    PointLike,
    answer_to_record_text,
    known_mentions,
    parse_box,
    parse_point,
    to_record_text,
)
from roikit.chat.picture import ImageLike, Picture, open_picture
from roikit.chat.saved import check_same_picture, conversation_sample, write_conversation
from roikit.errors import UsageError
from roikit.masks import MaskLike, encode_mask, mask_box
from roikit.mentions import mention, mentioned, plain
from roikit.prompt import Prompt
from roikit.sample import Region, Sample, Turn


class Answerer(Protocol):
    """What a session needs of a model; `roikit.chat.api.Model` is the real one."""

    def answer(self, prompt: Prompt, *, max_new_tokens: int, temperature: float, seed: int) -> str:
        """Return the answer as record text: mentions as `<regionN>`, literal text escaped."""
        ...

    def stream(
        self, prompt: Prompt, *, max_new_tokens: int, temperature: float, seed: int
    ) -> Iterator[str]:
        """Yield the answer's pieces as plain text, as a person reads it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How answers are decoded."""

    max_new_tokens: int = 256
    temperature: float = 0.0  #: 0 takes the likeliest token each time
    seed: int = 0  #: of the sampling; without effect at temperature 0


class Session:
    """One picture, its regions and what was said about them.

    Args:
        model: who answers.
        image: a path, encoded bytes, a PIL image or an (H, W, 3) uint8 RGB array.
        boxes: the first regions; more may be added at any time.
        points: further ones, after the boxes.
        masks: further ones, after the points.
        box_format: how boxes are read throughout this session: `xyxy` or `xywh`.
        decoding: how answers are decoded.

    Raises:
        UsageError: the picture or a region is not what it should be.
    """

    def __init__(
        self,
        model: Answerer,
        image: ImageLike,
        *,
        boxes: Sequence[BoxLike] = (),
        points: Sequence[PointLike] = (),
        masks: Sequence[MaskLike] = (),
        box_format: str = "xyxy",
        decoding: Decoding | None = None,
    ) -> None:
        self.picture: Picture = open_picture(image)
        self.box_format = box_format
        self.decoding = decoding or Decoding()
        self._model = model
        self._regions: list[Region] = []
        self._turns: list[Turn] = []
        # What `undo` takes back, last first. Regions and exchanges alternate freely, and a region
        # is always older than the exchanges that speak of it.
        self._steps: list[Literal["region", "exchange"]] = []
        for box in boxes:
            self.add_region(box)
        for point in points:
            self.add_region(point=point)
        for mask in masks:
            self.add_region(mask=mask)

    @property
    def image_wh(self) -> tuple[int, int]:
        """Width and height of the upright picture, in pixels."""
        return self.picture.image_wh

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions so far; `regions[0]` is region1."""
        return tuple(self._regions)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far, in record text, user first."""
        return tuple(self._turns)

    def add_region(
        self,
        box: BoxLike | None = None,
        *,
        point: PointLike | None = None,
        mask: MaskLike | None = None,
        label: str | None = None,
    ) -> int:
        """Add a region and return its number; from now on it can be spoken of.

        Args:
            box: see `roikit.chat.parsing.parse_box`; clipped to the picture. Without one it is the
                smallest around the mask, or a small one around the point.
            point: two numbers, pixels of the upright picture; or fractions of its width and height,
                where both are floats of at most 1.
            mask: (H, W) booleans of the picture's size, or runs in COCO's form.
            label: what a person calls it; drawn beside the number, not shown to the model.

        Raises:
            UsageError: none of the three, or one that is not what it should be.
        """
        if box is None and point is None and mask is None:
            raise UsageError("region: expected a box, a point or a mask, got none")
        point_xy = None if point is None else parse_point(point, self.image_wh)
        mask_rle = None if mask is None else encode_mask(mask, self.image_wh)
        if box is not None:
            box_xyxy = parse_box(box, self.image_wh, self.box_format)
        elif mask_rle is not None:
            box_xyxy = mask_box(mask_rle)
        else:
            assert point_xy is not None
            box_xyxy = box_ops.around_point(point_xy, self.image_wh)
        self._regions.append(
            Region(
                box_xyxy=box_xyxy,
                label=label or None,
                origin="user",
                mask_rle=mask_rle,
                point_xy=point_xy,
            )
        )
        self._steps.append("region")
        return len(self._regions)

    def user_text(self, text: str, *, name_region: bool = True) -> str:
        """Return the record text that `text` becomes as the user's next turn.

        A text that names no region speaks of the newest one, or, where the last questions named
        others since that was added, of those again; their names are put in front
        (`<region2>: what colour is it?`). Without regions the text stays as it is.

        Args:
            text: what a person wrote.
            name_region: False leaves a text that names no region alone, as for a question about
                the whole picture.

        Raises:
            UsageError: no text, or a region that does not exist.
        """
        if not text.strip():
            raise UsageError("expected a question, got an empty text")
        record_text = to_record_text(text.strip(), len(self._regions))
        current = self._spoken_of()
        if mentioned(record_text) or not name_region or not current:
            return record_text
        return f"{_listed(current)}: {record_text}"

    def ask(self, text: str, *, boxes: Sequence[BoxLike] = (), name_region: bool = True) -> str:
        """Ask, and return the whole answer as a person reads it (`region2`).

        Args:
            text: may name regions as `<region1>`, `region1` or `region 1`; see `user_text` for one
                that names none.
            boxes: regions added before the text is read, so it may name them.
            name_region: see `user_text`.

        Raises:
            UsageError: a wrong box, or a region that does not exist; the session is as before.
        """
        prompt, turn = self._begin(text, boxes, name_region)
        answer = self._model.answer(
            prompt,
            max_new_tokens=self.decoding.max_new_tokens,
            temperature=self.decoding.temperature,
            seed=self.decoding.seed,
        )
        answer = known_mentions(answer, len(self._regions)).strip()
        self._finish(turn, answer)
        return plain(answer)

    def stream(
        self, text: str, *, boxes: Sequence[BoxLike] = (), name_region: bool = True
    ) -> Generator[str, None, None]:
        """Ask, and return an iterator over the answer's pieces as they come.

        Errors in what was asked are raised at once, not at the first piece. The exchange joins the
        conversation when the answer ends; an answer that is stopped (the iterator closed, or
        Ctrl-C) joins it as far as it came, one that fails does not. Take one answer to its end
        before asking the next.
        """
        prompt, turn = self._begin(text, boxes, name_region)
        return self._pieces(prompt, turn)

    def undo(self) -> str | None:
        """Take back the last exchange or the last added region, whichever came later.

        Returns:
            What was taken back, in words; None if there was nothing.
        """
        if not self._steps:
            return None
        if self._steps.pop() == "exchange":
            question = plain(self._turns[-2].text)
            del self._turns[-2:]
            return f"the question `{question}`"
        self._regions.pop()
        return f"region{len(self._regions) + 1}"

    def clear(self, *, keep_regions: bool = True) -> None:
        """Forget what was said; with `keep_regions=False`, the regions too."""
        self._turns.clear()
        if not keep_regions:
            self._regions.clear()
        self._steps = ["region"] * len(self._regions)

    def with_image(self, image: ImageLike) -> "Session":
        """Return a new session on another picture, with this one's model and settings."""
        return Session(self._model, image, box_format=self.box_format, decoding=self.decoding)

    def draw(self) -> bytes:
        """Return the picture with its numbered regions, as PNG bytes."""
        return draw.png_bytes(draw.draw_regions(self.picture.pixels, self._regions))

    def to_sample(self) -> Sample:
        """Return the conversation as a roikit sample (dataset `chat`, regions of origin `user`).

        Raises:
            UsageError: nothing has been said yet.
        """
        return conversation_sample(
            self.picture, self._regions, self._turns, seed=self.decoding.seed
        )

    def resume(self, sample: Sample) -> None:
        """Take up a saved conversation: its regions and turns replace this session's.

        Raises:
            UsageError: the sample is about another picture, or holds no single dialogue.
        """
        check_same_picture(sample, self.picture)
        if len(sample.conversations) != 1 or len(sample.conversations[0].turns) % 2:
            raise UsageError(
                f"`{sample.key}`: expected one conversation of questions and answers, "
                f"got {len(sample.conversations)}"
            )
        self._regions = list(sample.regions)
        self._turns = list(sample.conversations[0].turns)
        exchanges: list[Literal["region", "exchange"]] = ["exchange"] * (len(self._turns) // 2)
        self._steps = ["region"] * len(self._regions)
        self._steps += exchanges

    def save(self, path: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write the conversation as `PATH.json` and the picture with its regions as `PATH.png`.

        Returns:
            The files written; see `roikit.chat.saved.write_conversation`.

        Raises:
            UsageError: nothing has been said yet, or a file is there already.
        """
        sample = self.to_sample()
        return write_conversation(
            path, sample, drawn_png=self.draw(), picture=self.picture, overwrite=overwrite
        )

    def _begin(self, text: str, boxes: Sequence[BoxLike], name_region: bool) -> tuple[Prompt, Turn]:
        num_before = len(self._regions)
        try:
            for box in boxes:
                self.add_region(box)
            turn = Turn(role="user", text=self.user_text(text, name_region=name_region))
        except UsageError:
            for _ in range(len(self._regions) - num_before):
                self.undo()
            raise
        prompt = Prompt(image=self.picture.pixels, regions=self.regions, turns=(*self._turns, turn))
        return prompt, turn

    def _pieces(self, prompt: Prompt, turn: Turn) -> Generator[str, None, None]:
        pieces = self._model.stream(
            prompt,
            max_new_tokens=self.decoding.max_new_tokens,
            temperature=self.decoding.temperature,
            seed=self.decoding.seed,
        )
        said = ""
        try:
            for piece in pieces:
                said += piece
                yield piece
        except (GeneratorExit, KeyboardInterrupt):
            if isinstance(pieces, Generator):
                pieces.close()  # the model stops thinking now, not when memory is next swept
            self._finish_plain(turn, said)
            raise
        self._finish_plain(turn, said)

    def _finish_plain(self, turn: Turn, said: str) -> None:
        self._finish(turn, answer_to_record_text(said.strip(), len(self._regions)))

    def _finish(self, turn: Turn, answer: str) -> None:
        # A record holds no empty turns, and a model that said nothing left nothing to build on.
        if not answer:
            return
        self._turns += [turn, Turn(role="assistant", text=answer)]
        self._steps.append("exchange")

    def _spoken_of(self) -> tuple[int, ...]:
        """Region numbers that a text without a mention is about; see `user_text`."""
        current: tuple[int, ...] = ()
        num_regions = num_exchanges = 0
        for step in self._steps:
            if step == "region":
                num_regions += 1
                current = (num_regions,)
                continue
            named = dict.fromkeys(mentioned(self._turns[2 * num_exchanges].text))
            current = tuple(named) or current
            num_exchanges += 1
        return current


def _listed(numbers: Sequence[int]) -> str:
    names = [mention(number) for number in numbers]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
