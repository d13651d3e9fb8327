"""Keep other libraries from writing over our output."""

import sys


def quiet_transformers() -> None:
    """Keep transformers' own bars (loading, writing weights) out of ours; downloads keep theirs."""
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()
