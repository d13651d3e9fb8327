"""roikit: region-annotated images in, region-aware vision-language models out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roikit.chat.api import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # `load` needs torch; importing roikit alone must not.
    if name == "load":
        from roikit.chat.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
