"""Measured lengths beside what is really encoded, on the miniature world."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.lengths import Lengths, measure_lengths
from pipelines.miniature import build_miniature
from pipelines.mixture import mixture_totals
from pipelines.token_counts import TokenizerCounter, WordCounter
from roikit import batch
from roikit.config import Recipe, StageRecipe
from roikit.sample import Conversation, Example, Sample
from shards.index import SplitIndex
from shards.layout import sample_key
from shards.read import ShardReader, open_split
from shards.stream import Stream
from tests.roikit.conftest import TINY
