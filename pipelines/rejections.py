"""Every reason a record can be left out for: one stable code each.

A record that cannot become part of a sample becomes a `Rejection` with one of these codes; it is
counted and kept in the manifest with its place in the source file. Faults above `--max-rejects` end
a conversion with exit 3; policies are decisions about good data and do not count.
"""

from roikit.sample import Rejection, Source

_MAX_MESSAGE = 500

#: Something is wrong with the data.
FAULTS: dict[str, str] = {
    "E_BOX_EMPTY": "the box is less than one pixel wide or high, in the file or inside the picture",
    "E_BOX_OUTSIDE": "the box lies wholly outside the picture",
    "E_CATEGORY_UNKNOWN": "the category id is not in the file's list of categories",
    "E_COUNT_MISMATCH": "two lists that belong together differ in length",
    "E_FIELD_MISSING": "a field that is needed is not there",
    "E_FIELD_TYPE": "a field holds something of another type than it should",
    "E_FIELD_UNKNOWN": "a field has a name that the format does not know",
    "E_IMAGE_MISSING": "the picture's file is in none of the image folders",
    "E_IMAGE_TRUNCATED": "the picture's file ends too early",
    "E_IMAGE_UNDECODABLE": "the picture's pixels cannot be decoded (`--decode-images` only)",
    "E_IMAGE_UNKNOWN": "the record speaks of an image that the file of images does not list",
    "E_IMAGE_UNREADABLE": "the picture's file is no picture that can be read, or is too large",
    "E_JSON_INVALID": "a line or an entry is not valid JSON",
    "E_MASK_INVALID": "the mask cannot be read or holds no pixel; the region stays without it",
    "E_MASK_SIZE": "the mask's pixels are not the upright picture's; the region stays without it",
    "E_METADATA_MISSING": "the picture's metadata file is not there",
    "E_NAME_MISMATCH": "the picture's file name and its id speak of different photographs",
    "E_NAME_UNSAFE": "the picture's path would leave the image folder",
    "E_OPTIONS_AMBIGUOUS": "not exactly one option of a multiple-choice question is the right one",
    "E_PHRASE_EMPTY": "the text is empty",
    "E_RECORD_DUPLICATE": "an id that must be unique occurs for the second time",
    "E_RECORD_INVALID": "the finished sample breaks a rule of the record",
    "E_REF_NO_ANNOTATION": "the text speaks of an object that has no usable box",
    "E_SIZE_MISMATCH": "the picture's shape is not the one its boxes were drawn on",
    "E_TURN_ORDER": "the turns of a dialogue do not alternate, a person's first",
    "E_VALUE_RANGE": "a number is outside the range it may take",
    "E_XML_INVALID": "an annotation file is not valid XML, or holds a DOCTYPE or entities",
}

#: Nothing is wrong with the data; we leave it out on purpose.
POLICIES: dict[str, str] = {
    "E_CAPTION_UNRELATED": "the dataset's own list says that the caption is not about its picture",
    "E_CROWD": "a crowd box describes a group of objects, not a region",
    "E_IMAGE_UNANNOTATED": "nothing is said about the picture",
    "E_NUMBER_LOST": "the reference loses the question over a number in it (`--faithful` only)",
    "E_PHRASE_SHORT": "the text has fewer words than the reference takes (`--faithful` only)",
}

CODES: dict[str, str] = {**FAULTS, **POLICIES}


def is_policy(code: str) -> bool:
    """Tell whether records are left out on purpose under `code`."""
    return code in POLICIES


def reject(
    code: str, message: str, *, file: str, record: str, native_id: str | None = None
) -> Rejection:
    """Make a rejection.

    Args:
        code: one of `CODES`.
        message: what was expected and what was found.
        file: the source file, relative to the source folder.
        record: the place inside it, e.g. `annotations[17]` or `line 12`.
        native_id: of the image, where it is known.
    """
    assert code in CODES, code
    if len(message) > _MAX_MESSAGE:  # a name in it may be a damaged file's whole rest
        message = f"{message[:_MAX_MESSAGE]} ..."
    source = Source(file=file, record=record)
    return Rejection(code=code, message=message, source=source, native_id=native_id)
