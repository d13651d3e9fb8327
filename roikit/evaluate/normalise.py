"""How answers and references are made comparable before scoring. Pure functions on strings."""

from roikit.mentions import plain

_ARTICLES = ("a ", "an ", "the ")


def clean(text: str) -> str:
    """Return record text as a person reads it, on one line.

    Every run of white space becomes a space: PTB's tokenizer ends a line at more than line feeds
    (carriage returns, U+2028), and one such character would shift all captions after it by one.
    """
    return " ".join(plain(text).split())


def caption(text: str) -> str:
    """Lower case, one line, no final stop.

    Source: Visual Genome's references (GRiT's test.json) are lower case without punctuation.
    """
    return clean(text).lower().rstrip(". ")


def category(text: str) -> str:
    """Lower case, one line, no article in front, no final stop."""
    name = caption(text)
    for article in _ARTICLES:
        if name.startswith(article):
            return name[len(article) :]
    return name
