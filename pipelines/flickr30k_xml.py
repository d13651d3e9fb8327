"""Parse one `Annotations/<id>.xml` of Flickr30k Entities.

The files come from strangers: a DOCTYPE is refused where it starts, so that no entity is ever
declared, expanded or fetched. Values come back as the texts they are; nothing here judges them.
"""

from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat


@dataclass(kw_only=True, slots=True)
class XmlObject:
    """One `<object>`."""

    names: list[str] = field(default_factory=list)  #: chain ids
    corners: dict[str, str] = field(default_factory=dict)  #: `xmin` ...; empty without a box
    is_flagged: bool = False  #: `scene` or `nobndbox` is set: it has no box on purpose


@dataclass(kw_only=True, slots=True)
class XmlAnnotation:
    """One file."""

    size: dict[str, str] = field(default_factory=dict)  #: `width`, `height`, `depth`
    objects: list[XmlObject] = field(default_factory=list)


def parse_annotation(data: bytes) -> XmlAnnotation:
    """Parse a file's bytes.

    Raises:
        ValueError: not well-formed, not an `<annotation>`, or it holds a DOCTYPE; the message says
            which.
    """
    reader = _Reader()
    # An encoding named in the file is passed over: the official ones are ASCII.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text.append
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"not well-formed: {error}") from error
    return reader.annotation


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it holds a DOCTYPE, which the dataset's own files do not")


class _Reader:
    """Takes expat's events; elements that the format does not know are passed over."""

    def __init__(self) -> None:
        self.annotation = XmlAnnotation()
        self.text: list[str] = []
        self._path: list[str] = []
        self._has_box = False  #: the object's first `<bndbox>` counts, as in the official helper

    def start(self, name: str, _: dict[str, str]) -> None:
        path = self._path
        path.append(name)
        self.text.clear()
        if len(path) == 1 and name != "annotation":
            raise ValueError(f"expected `<annotation>`, found `<{name[:40]}>`")
        if len(path) == 2 and name == "object":
            self.annotation.objects.append(XmlObject())
            self._has_box = False

    def end(self, name: str) -> None:
        path = self._path
        parent = path[1] if len(path) > 1 else ""
        if parent == "object" and len(path) == 4 and path[2] == "bndbox":
            if not self._has_box:
                self.annotation.objects[-1].corners[name] = self._value()
        elif parent == "object" and len(path) == 3:
            self._end_of_field(self.annotation.objects[-1], name)
        elif parent == "size" and len(path) == 3:
            self.annotation.size[name] = self._value()
        path.pop()
        self.text.clear()

    def _end_of_field(self, entry: XmlObject, name: str) -> None:
        if name == "name":
            entry.names.append(self._value())
        elif name == "bndbox":
            self._has_box = bool(entry.corners)
        elif name in ("scene", "nobndbox"):
            entry.is_flagged |= self._value() not in ("", "0")

    def _value(self) -> str:
        return "".join(self.text).strip()
