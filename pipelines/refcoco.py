"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that tell one object of a picture from the others.

Finds a dataset's files, in either form, and lets `refer_pickle` or `refer_mdetr` read them; what
becomes of them is in `refer`. The three differ in what was asked of people: RefCOCO's expressions
are short and often say where the object is, RefCOCO+'s may not, RefCOCOg's are longer and written
without haste. So each has wordings of its own.

Several authorities cut these datasets into splits. Where files of several lie side by side, unc's
are taken for RefCOCO and RefCOCO+ and umd's for RefCOCOg, which are those that papers report on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.coco_names import photograph_places
from pipelines.draft import (
    DatasetSpec,
    Licence,
    OpenSource,
    SourceOptions,
    SplitRecords,
    Stage,
)
from pipelines.images import ImageRoots, image_roots
from pipelines.refcoco_counts import OFFICIAL
from pipelines.refer import build
from pipelines.refer_mdetr import open_entries
from pipelines.refer_pickle import INSTANCES_NAME, open_references
from pipelines.source import missing_files, require_folder
from roikit.errors import UsageError

log = logging.getLogger(__name__)

#: Splits by the authority that made them. Google's `test` of RefCOCOg was never published.
_SPLITS = {
    "unc": ("train", "val", "testA", "testB"),
    "umd": ("train", "val", "test"),
    "google": ("train", "val", "test"),
}
#: Folders of REFER's archives. Its files do not say which dataset they are of; the folder does.
_FOLDERS = ("refcoco", "refcoco+", "refcocog", "refclef")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Set:
    """One of the three."""

    name: str  #: of the dataset, of REFER's folder, and in MDETR's file names
    title: str
    authority: str  #: whose splits are taken by default; MDETR's files are cut by the same
    family: str  #: wordings that ask for an expression
    stage: Stage
    licence: str  #: of the expressions

    @property
    def mdetr_names(self) -> dict[str, str]:
        """MDETR's file names by split."""
        return {split: f"finetune_{self.name}_{split}.json" for split in _SPLITS[self.authority]}

    @property
    def expects(self) -> tuple[str, ...]:
        """Both forms' files."""
        refer = (INSTANCES_NAME, _refs_name(self.authority))
        return (*refer, *self.mdetr_names.values(), "train2014/")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One authority's splits, found in one form."""

    folder: Path
    files: tuple[str, ...]  #: their names, for messages
    splits: Callable[[ImageRoots], Mapping[str, Callable[[], SplitRecords]]]
    has_masks: bool


_SETS = {
    one.name: one
    for one in (
        _Set(
            name="refcoco",
            title="RefCOCO",
            authority="unc",
            family="refer",
            stage="1",
            licence="for research",
        ),
        _Set(
            name="refcoco+",
            title="RefCOCO+",
            authority="unc",
            family="refer-appearance",
            stage="1",
            licence="for research",
        ),
        _Set(
            name="refcocog",
            title="RefCOCOg",
            authority="umd",
            family="refer-sentence",
            stage="2",
            licence="for research; Google's expressions CC BY 4.0",
        ),
    )
}


def open_source(
    source: Path, extra_roots: Sequence[Path], options: SourceOptions, *, dataset: str
) -> OpenSource:
    """Find a dataset's files in `source` or in the folder of its name below it.

    Where both forms hold an authority's splits, REFER's is taken.

    Raises:
        UsageError: no such folder, none of the files in it, files of another dataset, or not the
            authority asked for.
    """
    one = _SETS[dataset]
    require_folder(source, one.title, one.expects)
    own = source / one.name
    found: dict[str, _Found] = {}
    for find in (_find_refer, _find_mdetr):
        for folder in (source, own):
            for authority, there in find(folder, one, options).items():
                found.setdefault(authority, there)
    if not found:
        for folder in filter(_refs_paths, (source, own)):
            raise missing_files(folder, one.title, (INSTANCES_NAME,))
        raise missing_files(source, one.title, one.expects)
    authority = _choose(found, one, source, options.split_by)
    chosen = found[authority]
    if options.masks and not chosen.has_masks:
        raise UsageError(
            f"`--masks`: expected {INSTANCES_NAME} beside the references in `{chosen.folder}`, "
            f"found MDETR's files ({', '.join(chosen.files)}), which hold no masks",
            hint="get REFER's archive, or leave `--masks` out",
        )
    log.info("%s: splits of %s, from %s", one.title, authority, ", ".join(chosen.files))
    if authority == "google":
        log.warning(
            "%s: google's splits divide objects, not images: pictures of train stand in val, too."
            " Figures on them say little about unseen pictures (`roikit leaks` counts them) and do"
            " not compare with those on %s's",
            one.title,
            one.authority,
        )
    roots = image_roots(photograph_places(chosen.folder), extra_roots)
    return OpenSource(
        folder=chosen.folder,
        roots=roots,
        splits=chosen.splits(roots),
        official=OFFICIAL[one.name][authority],
    )


def _refs_name(authority: str) -> str:
    return f"refs({authority}).p"


def _refs_paths(folder: Path) -> dict[str, Path]:
    """Return the files of references in a folder, by authority."""
    paths = {authority: folder / _refs_name(authority) for authority in _SPLITS}
    return {authority: path for authority, path in paths.items() if path.is_file()}


def _find_refer(folder: Path, one: _Set, options: SourceOptions) -> dict[str, _Found]:
    """Return the authorities whose splits lie in a folder in REFER's form."""
    found: dict[str, _Found] = {}
    refs = _refs_paths(folder)
    if refs:
        _check_folder(folder, one)
        if not (folder / INSTANCES_NAME).is_file():
            log.warning(
                "%s: %s without %s, which has the boxes: not used",
                folder, ", ".join(path.name for path in refs.values()), INSTANCES_NAME,
            )  # fmt: skip
            refs = {}
    for authority, path in refs.items():
        reader = partial(
            open_references,
            folder,
            path.name,
            _SPLITS[authority],
            is_faithful=options.faithful,
            with_masks=options.masks,
        )
        found[authority] = _Found(folder=folder, files=(path.name,), splits=reader, has_masks=True)
    return found


def _find_mdetr(folder: Path, one: _Set, options: SourceOptions) -> dict[str, _Found]:
    """Return the authority whose splits lie in a folder in MDETR's form."""
    paths = {split: folder / name for split, name in one.mdetr_names.items()}
    paths = {split: path for split, path in paths.items() if path.is_file()}
    if not paths:
        return {}
    names = tuple(path.name for path in paths.values())
    entries = partial(open_entries, paths, is_faithful=options.faithful)
    return {
        one.authority: _Found(folder=folder, files=names, splits=entries, has_masks=False),
    }


def _check_folder(folder: Path, one: _Set) -> None:
    """Refuse another dataset's folder: its files would be read without a complaint."""
    name = folder.absolute().name
    if name in _FOLDERS and name != one.name:
        raise UsageError(
            f"`{folder}`: expected {one.title}'s references, found the folder of `{name}`",
            hint=f"give the folder `{one.name}` or the one that holds it",
        )


def _choose(found: Mapping[str, _Found], one: _Set, source: Path, wanted: str | None) -> str:
    """Choose whose splits to read."""
    there = "; ".join(f"{name} ({', '.join(it.files)})" for name, it in found.items())
    if wanted is not None:
        if wanted not in found:
            raise UsageError(
                f"`--split-by`: expected an authority whose files lie in `{source}`: {there}; "
                f"got `{wanted}`",
                hint="name one of these, or put the file of the one you want beside them",
            )
        return wanted
    if one.authority in found:
        return one.authority
    if len(found) > 1:
        raise UsageError(
            f"`{source}`: expected {one.authority}'s splits, found several others: {there}",
            hint="say which with `--split-by`",
        )
    return next(iter(found))


def _spec(one: _Set) -> DatasetSpec:
    return DatasetSpec(
        name=one.name,
        title=one.title,
        version=1,
        expects=one.expects,
        families=(one.family,),
        open_source=partial(open_source, dataset=one.name),
        build=partial(build, family=one.family),
        options=("split_by", "masks", "faithful"),
        # Source: GPT4RoI `gpt4roi/configs/stage1.py`, `stage2.py`; the README of lichengunc/refer.
        stage=one.stage,
        licence=Licence(annotations=one.licence, pictures="COCO's, a Flickr licence each"),
        registration=None,
        published=OFFICIAL[one.name][one.authority],
    )


REFCOCO = _spec(_SETS["refcoco"])
REFCOCO_PLUS = _spec(_SETS["refcoco+"])
REFCOCOG = _spec(_SETS["refcocog"])
