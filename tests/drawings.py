"""Reading back what stands in a figure, for the tests of all that draws."""

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def rows(axis: Axes) -> list[str]:
    """The labels of the vertical axis."""
    return [label.get_text() for label in axis.get_yticklabels()]


def quivers(axis: Axes) -> list[Quiver]:
    return [item for item in axis.collections if isinstance(item, Quiver)]


def hexes(colors: list) -> list[str]:
    return [to_hex(color).upper() for color in colors]


def drawn(what: Axes | Figure) -> None:
    """Errors in what is drawn late, such as formatters, come up here."""
    figure = what.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
