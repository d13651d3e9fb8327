from shards import manifest
from shards.stats import RejectionStats, TaskStats, stats


def test_stats_count_by_split_and_task(tmp_path, make_split):
    make_split(tmp_path, shard_sizes=(4, 3), num_conversations=2)
    manifest.rebuild(tmp_path)
    found = stats(tmp_path)
    caption = {"samples": 7, "regions": 7, "conversations": 14, "exchanges": 14, "words": 84}
    choice = {"samples": 7, "regions": 7, "conversations": 7, "exchanges": 0, "words": 21}
    where = {"dataset": "made", "split": "train"}
    assert found.tasks == (
        TaskStats(**where, task="caption", **caption, answer_words=42),
        TaskStats(**where, task="choice", **choice, answer_words=0),
    )
    assert found.rejections == (RejectionStats(**where, code="E_BOX_OUTSIDE", rejections=2),)
