from shards.identity import LeakCount, identities, overlap


def test_pictures_of_the_training_data_are_counted(tmp_path, make_split):
    make_split(tmp_path, "made", "val", shard_sizes=(4,))
    make_split(tmp_path, "made", "train", shard_sizes=(4,), first_number=3)
    make_split(tmp_path, "other", "train", shard_sizes=(1,))
    ours = ("made", "val")
    train = [("made", "train"), ("other", "train")]
    assert overlap(tmp_path, eval=ours, train=train[:1]) == LeakCount(1, 4)
    assert overlap(tmp_path, eval=ours, train=train) == LeakCount(2, 4)
    assert overlap(tmp_path, eval=ours, train=[ours]) == LeakCount(4, 4)
    assert overlap(tmp_path, eval=ours, train=[]) == LeakCount(0, 4)


def test_identities_follow_the_shards_order(tmp_path, make_split, make_sample):
    make_split(tmp_path, shard_sizes=(2, 1))
    found = identities(tmp_path, "made", "train")
    images = [make_sample("made", "train", number)[0].image for number in range(3)]
    assert found.native_ids == tuple(image.native_id for image in images)
    assert found.sha256s == tuple(image.sha256 for image in images)
