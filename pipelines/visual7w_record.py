"""What Visual7W's files are read into: one image's questions and boxes, from the plan to the task.

Nothing here knows which of the files they came from, or their form.
"""

from typing import Literal

import msgspec

Kind = Literal["telling", "pointing"]


class Question(msgspec.Struct, array_like=True, gc=False):
    """One question, on its way from the plan to the task."""

    kind: Kind
    file: str
    record: str
    id: str
    text: str
    #: the right option first; a text, or the place of a box in `Payload.boxes`
    options: list[str | int]


class Box(msgspec.Struct, array_like=True, gc=False):
    """One box, on its way from the plan to the task."""

    file: str
    record: str
    id: str | None
    name: str
    bbox_xywh: tuple[float, float, float, float]
    is_grounding: bool  #: a record of its own, not the option of a question


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one image."""

    questions: list[Question] = []
    boxes: list[Box] = []
