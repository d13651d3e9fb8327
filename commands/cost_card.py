"""How a cost card looks on a terminal."""

from typing import TYPE_CHECKING

from roikit import render

if TYPE_CHECKING:  # torch, which the command line starts without
    from pipelines.estimate import CostCard


def show(card: "CostCard") -> None:
    """Print the card's figures, whether the stage fits, and what was assumed."""
    hardware = card.hardware
    rows, group = [], ""
    for figure in card.figures:
        value = f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:,.4g}"
        rows.append(
            (
                "" if figure.group == group else figure.group,
                figure.name,
                value,
                figure.unit,
                figure.known,
            )
        )
        group = figure.group
    render.table(
        ("", f"{card.recipe} {card.stage}", "value", "unit", "known"),
        rows,
    )
    render.line("")
    room = f"{hardware.memory_gib:g} GiB a GPU"
    if card.fits:
        render.line(f"fits into {room}")
    elif card.advice:
        render.line(f"does not fit into {room}; computed to fit:")
        for one in card.advice:
            render.line(f"  {one.settings}   ({one.bytes / 2**30:.1f} GiB)")
    else:
        render.line(f"does not fit into {room}, nor with any setting that was tried")
    render.line("")
    render.line("assumptions:")
    for text in card.assumptions:
        render.line(f"- {text}")
