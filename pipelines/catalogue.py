"""Every dataset that can be converted: its terms, its published counts, and what is converted."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.draft import Licence, OfficialCounts, Stage
from pipelines.registry import DATASETS
from roikit import paths
from shards.commit import list_datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueEntry:
    """One dataset."""

    name: str
    title: str
    stage: Stage
    source: Path  #: where it is looked for by default
    expects: tuple[str, ...]  #: official files, there
    licence: Licence
    registration: str | None
    published: dict[str, OfficialCounts]  #: by split, of the usual form of the files
    converted: dict[str, int]  #: samples by split


def list_catalogue(shards: Path) -> list[CatalogueEntry]:
    """Return the datasets in the order of the registry.

    Args:
        shards: root of the shards; may be missing.
    """
    there = list_datasets(shards)
    return [
        CatalogueEntry(
            name=name,
            title=spec.title,
            stage=spec.stage,
            source=paths.source_dir(name),
            expects=spec.expects,
            licence=spec.licence,
            registration=spec.registration,
            published=dict(spec.published),
            converted={info.split: info.samples for info in there if info.dataset == name},
        )
        for name, spec in DATASETS.items()
    ]
