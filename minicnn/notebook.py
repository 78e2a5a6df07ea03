"""Pictures in a notebook: one that shows itself, and one that changes while its cell runs."""

import io
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> "Figure":
    """A Figure that a notebook shows when it is the value of a cell."""
    from matplotlib.figure import Figure  # here: importing it takes longer than all of minicnn

    figure = Figure(**options)
    figure._repr_png_ = partial(rendered, figure, "png")  # type: ignore[attr-defined]
    return figure


def rendered(figure: "Figure", format: str) -> bytes:
    """The picture as a file of this format."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format=format)
    return content.getvalue()


def notebook_cell() -> Callable[[bytes], None] | None:
    """A function that shows a PNG below the running cell of a notebook; None outside a notebook."""
    if "IPython" not in sys.modules:  # every notebook has it loaded, and it is slow to load
        return None
    from IPython import display, get_ipython

    if not hasattr(get_ipython(), "kernel"):  # IPython in a terminal, which shows text only
        return None
    # with a handle, the cell's other output stays; clear_output would wipe it out
    cell = display.display(display.Markdown("The picture appears here."), display_id=True)
    return lambda png: cell.update(display.Image(png))
