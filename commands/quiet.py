"""Keep other libraries from writing over our output."""

import sys


def quiet_transformers() -> None:
    """Keep transformers' own bars (loading, writing weights) out of ours; downloads keep theirs.

    Nor does the hub tell of each attempt to reach it: that it cannot be reached is our message.
    """
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if sys.stderr.isatty():
        enable_progress_bars()
