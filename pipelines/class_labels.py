"""What a class is called in labels and texts: one rule wherever LVIS's way of naming occurs.

In: names as annotation files spell them (`bat_(animal)`, `mouse_(computer_equipment):left_button`).
Out: what a person would say (`bat`, `mouse left button`). Used for boxes (`lvis`, `paco`) and for
what a detector found (`llava`), so that a model meets one name for one class.

The rule: underscores and colons become blanks, and what stands in parentheses goes, for nobody says
it: the picture shows which bat is meant. It stays where it is all that tells two classes apart
(`salmon (fish)`, `salmon (food)`): among the names of the file at hand, and among LVIS v1's in any
case, so that PACO, which has but one pan, calls it what LVIS does.
"""

import re
from collections import Counter
from collections.abc import Sequence

from pipelines.annotations import clean_text

#: What more than one of LVIS v1's 1,203 classes is called without its parentheses: two kinds each
#: of bow, octopus, pan and salmon, and `fish` beside `fish_(food)`.
#: Source: the categories of lvis_v1_val.json, as mmdetection's LVISV1Dataset lists them.
_AMBIGUOUS_IN_LVIS = frozenset(("bow", "fish", "octopus", "pan", "salmon"))

_SEPARATORS = re.compile(r"[_:]")


def spoken_names(names: Sequence[str]) -> list[str]:
    """Return what each class of a file is called, in order.

    Args:
        names: all classes of the file, as it spells them.
    """
    bare = [bare_name(name) for name in names]
    bearers = Counter(own.lower() for own in bare)
    return [
        _spaced(name) if bearers[own.lower()] > 1 or _is_ambiguous(name) else own
        for name, own in zip(names, bare, strict=True)
    ]


def bare_name(name: str) -> str:
    """Return a name without parentheses, whether or not another class is called the same.

    Of object and part each loses its own. One of LVIS's names has another name after its
    parenthesis (`monitor_(computer_equipment) computer_monitor`); it goes, too.
    """
    said = " ".join(_spaced(half.partition("(")[0]) for half in name.split(":"))
    return clean_text(said) or _spaced(name)


def _is_ambiguous(name: str) -> bool:
    return bare_name(name.partition(":")[0]).lower() in _AMBIGUOUS_IN_LVIS


def _spaced(name: str) -> str:
    return clean_text(_SEPARATORS.sub(" ", name))
