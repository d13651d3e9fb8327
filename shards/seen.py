"""How many of a benchmark's pictures a model was trained on, or why nobody can say.

In: what each run that led to the model froze (mixture, Merkle roots, exclusions) and the shards as
they are now. A split that was converted again since is not what was trained on: then the answer is
not known, and a number would be a guess.
"""

from collections.abc import Sequence
from pathlib import Path

from roikit.errors import UsageError
from roikit.runs import TrainedOn
from shards.commit import load_dataset
from shards.identity import LeakCount, count, read_pictures, together
from shards.layout import commit_path
from shards.mix import parse_mix
from shards.selection import choose_conversations


def seen_in_training(
    root: Path | str, *, eval: tuple[str, str], trained: Sequence[TrainedOn] | None
) -> LeakCount | str:
    """Count the evaluation's pictures that the runs were trained on.

    Pictures that a run left out, or none of whose conversations its mixture takes, were not.

    Args:
        root: the shards' root folder.
        eval: dataset and split of the evaluation.
        trained: what each run that led to the model was trained on; None where nobody knows.

    Returns:
        The count, or why it is not known.

    Raises:
        UsageError: the evaluation split is not committed.
    """
    if trained is None:
        return "the model is no run of ours, or a run that it started from is gone"
    parts = []
    for run in trained:
        if run.excluded is None:
            return f"{run.run}: its list of pictures left out is missing or was changed"
        try:
            mix = parse_mix(run.mix)
        except UsageError as error:
            return f"{run.run}: {error}"
        chosen = None
        if run.where:
            try:
                splits = {(one.dataset, one.split) for one in mix}
                chosen = choose_conversations(root, splits, run.where)
            except UsageError as error:
                return f"{run.run}: what it was trained on cannot be asked for again: {error}"
            if chosen.sha256 != run.where_sha256:
                return f"`{run.where}`, which {run.run} was trained on, holds for others now"
        for name, merkle_root in sorted(run.splits.items()):
            dataset, _, split = name.partition("/")
            spelt = f"`{dataset}@{split}`"
            if not commit_path(root, dataset, split).is_file():
                return f"{spelt}, which {run.run} was trained on, is not in {root}"
            if load_dataset(root, dataset, split).merkle_root != merkle_root:
                return f"{spelt} was converted anew since {run.run} was trained on it"
            entries = [one for one in mix if (one.dataset, one.split) == (dataset, split)]
            parts.append(
                read_pictures(
                    root,
                    dataset,
                    split,
                    entries=entries,
                    excluded=run.excluded,
                    chosen=chosen,
                    held_out=run.held_out,
                )
            )
    return count(read_pictures(root, *eval), together(parts))
