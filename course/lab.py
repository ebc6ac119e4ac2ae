"""The notebooks in JupyterLab, trusted: ``python -m course.lab [OPTION OF JUPYTERLAB ...]``.

In the folder of the course. Not trusted, a notebook shows neither its SVG figures nor its sliders until the cells are
run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jupyterlab.labapp import LabApp
from nbformat.sign import TrustNotebookApp

FOLDER = Path("notebooks")


def main(argv: list[str] | None = None) -> int:
    """Trust the notebooks of the folder `notebooks`, then show them; ends with the server."""
    options = sys.argv[1:] if argv is None else argv
    notebooks = sorted(map(str, FOLDER.glob("*.ipynb")))
    if not notebooks:
        print(f"error: no notebooks in {str(FOLDER.resolve())!r}: start this in the course's folder", file=sys.stderr)
        return 2
    trust = TrustNotebookApp()  # launched, it would close the event loop that the server needs
    trust.initialize(notebooks)
    trust.start()
    LabApp.launch_instance([str(FOLDER), *options])
    return 0


if __name__ == "__main__":
    sys.exit(main())
