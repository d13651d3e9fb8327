"""Splits as COCO's JSON: images, boxes (and masks) with ids, categories from the regions' labels.

`OUT/annotations/<dataset>-<split>.json` for each split, read one sample at a time; pictures in
`OUT/images/`. COCO's form has no place for dialogues: labels, boxes, masks and scores leave.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from roikit.masks import decode_mask
from roikit.sample import Region, Sample
from shards.commit import DatasetInfo, list_datasets
from shards.export.folder import (
    ExportedSplit,
    ExportReport,
    Progress,
    export_folder,
    num_samples,
    write_picture,
    write_report,
)
from shards.layout import parse_key, sidecar_path, split_prefix
from shards.read import iter_samples
from shards.sidecar import read_rows

#: The category of regions without a label.
UNLABELLED = "region"


def export_coco(
    root: Path | str,
    splits: Sequence[DatasetInfo],
    out: Path,
    *,
    with_pictures: bool = True,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write `splits` as COCO's JSON below `out`.

    An image's id is its key's number. Categories are numbered from 1 in alphabetical order over all
    committed splits of the dataset, so that train and val agree; they are not COCO's own ids.

    Args:
        root: the shards' root folder.
        splits: what to export.
        out: the folder to make.
        with_pictures: extract the pictures; otherwise `file_name` is the dataset's own name.
        limit: at most so many samples a split.
        overwrite: replace an older export.
        progress: told how many samples are done.

    Raises:
        UsageError: `out` holds something else, or an export and `overwrite` is false.
        CorruptSampleError: a stored sample cannot be read.
    """
    total = num_samples(splits, limit)
    done = 0
    exported = []
    with export_folder(out, overwrite=overwrite) as folder:
        (folder / "annotations").mkdir()
        categories: dict[str, dict[str, int]] = {}
        for info in splits:
            if info.dataset not in categories:
                categories[info.dataset] = _categories(root, info.dataset)
            ids = categories[info.dataset]
            name = f"annotations/{split_prefix(info.dataset, info.split)}.json"
            with (
                (folder / name).open("wb") as file,
                tempfile.TemporaryFile(dir=folder) as annotations,
            ):
                file.write(b'{"info":' + msgspec.json.encode(_info(info)))
                file.write(b',\n"licenses":[],\n"images":[')
                num_images = num_annotations = 0
                for sample, image_bytes in iter_samples(
                    root, info.dataset, info.split, limit=limit
                ):
                    picture = sample.image.file
                    if with_pictures:
                        picture = write_picture(folder / "images", sample, image_bytes)
                    _item(file, _image(sample, picture), is_first=num_images == 0)
                    for number, region in enumerate(sample.regions, start=1):
                        label = region.label or UNLABELLED
                        found = _annotation(sample, number, region, ids[label])
                        found["id"] = num_annotations + 1
                        _item(annotations, found, is_first=num_annotations == 0)
                        num_annotations += 1
                    num_images += 1
                    done += 1
                    progress(done, total)
                file.write(b'],\n"annotations":[')
                annotations.seek(0)
                shutil.copyfileobj(annotations, file)
                file.write(b'],\n"categories":' + msgspec.json.encode(_listed(ids)) + b"}\n")
            exported.append(
                ExportedSplit(
                    dataset=info.dataset,
                    split=info.split,
                    merkle_root=info.merkle_root,
                    file=name,
                    samples=num_images,
                    records=num_annotations,
                    left_out={},
                )
            )
        report = ExportReport(
            format="coco",
            out=out,
            settings={"with_pictures": with_pictures, "limit": limit},
            splits=tuple(exported),
        )
        write_report(folder, report)
    return report


def _categories(root: Path | str, dataset: str) -> dict[str, int]:
    """Number the labels of all of a dataset's splits, from their sidecars."""
    labels: set[str] = set()
    for info in list_datasets(root):
        if info.dataset != dataset:
            continue
        for index in range(len(info.shards)):
            path = sidecar_path(root, dataset, info.split, index)
            rows = read_rows(path, ["regions.list.element.label"])
            for regions in rows.column("regions").to_pylist():
                labels.update(region["label"] or UNLABELLED for region in regions)
    return {label: i for i, label in enumerate(sorted(labels), start=1)}


def _listed(ids: dict[str, int]) -> list[dict[str, Any]]:
    return [{"id": id, "name": label, "supercategory": ""} for label, id in ids.items()]


def _info(info: DatasetInfo) -> dict[str, str]:
    description = f"{info.dataset}@{info.split}, exported by roikit"
    return {"description": description, "version": info.merkle_root}


def _image(sample: Sample, picture: str) -> dict[str, Any]:
    return {
        "id": parse_key(sample.key)[1],
        "file_name": picture,
        "width": sample.image.width,
        "height": sample.image.height,
        "native_id": sample.image.native_id,
    }


def _annotation(sample: Sample, number: int, region: Region, category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = region.box_xyxy
    found: dict[str, Any] = {
        "image_id": parse_key(sample.key)[1],
        "category_id": category_id,
        # Without the noise that subtraction leaves in the last digits.
        "bbox": [round(value, 4) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": round((x1 - x0) * (y1 - y0), 4),
        "segmentation": [],
        "iscrowd": 0,
        "region": number,
    }
    rle = region.mask_rle
    if rle is not None:
        found["segmentation"] = {"size": list(rle.size), "counts": rle.counts}
        found["area"] = float(decode_mask(rle).sum())
    if region.score is not None:
        found["score"] = region.score
    if region.native_id is not None:
        found["native_id"] = region.native_id
    return found


def _item(file: BinaryIO, value: dict[str, Any], *, is_first: bool) -> None:
    file.write((b"\n" if is_first else b",\n") + msgspec.json.encode(value))
