"""What RefCOCO, RefCOCO+ and RefCOCOg hold, as published: images and expressions.

By dataset, authority and split. A record is an expression, in REFER's form and in MDETR's, whose
files are cut by unc and umd and have an entry an expression. A reference without an expression,
which the official files do not have, would count as one record.

Source: images are those of TensorFlow Datasets' cards. Expressions: RefCOCO's of unc and RefCOCOg's
val and test of umd are firm; the others are commonly cited, and every dataset's sum agrees with its
published total (142,210, 141,564, 95,010).
"""

from collections.abc import Mapping

from pipelines.draft import OfficialCounts


def _counts(**splits: tuple[int, int | None]) -> dict[str, OfficialCounts]:
    return {
        split: OfficialCounts(images=images, records=expressions)
        for split, (images, expressions) in splits.items()
    }


OFFICIAL: Mapping[str, Mapping[str, Mapping[str, OfficialCounts]]] = {
    "refcoco": {
        "unc": _counts(
            train=(16_994, 120_624), val=(1_500, 10_834), testA=(750, 5_657), testB=(750, 5_095)
        ),
        # The 142,210 expressions are published without the splits' shares.
        "google": _counts(train=(19_213, None), val=(4_559, None), test=(4_527, None)),
        "umd": {},
    },
    "refcoco+": {
        "unc": _counts(
            train=(16_992, 120_191), val=(1_500, 10_758), testA=(750, 5_726), testB=(750, 4_889)
        ),
        "google": {},
        "umd": {},
    },
    "refcocog": {
        "umd": _counts(train=(21_899, 80_512), val=(1_300, 4_896), test=(2_600, 9_602)),
        # Its test was never released.
        "google": _counts(train=(24_698, 85_474), val=(4_650, 9_536)),
        "unc": {},
    },
}
