"""Raw annotations in, shards out: one module a dataset, and the conversion they share."""
