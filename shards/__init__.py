"""Shards on disk: write, commit, verify, list, and stream them in a reproducible order."""
