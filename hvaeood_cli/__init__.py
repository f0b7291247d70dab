"""Find the images that do not belong, with a hierarchical VAE that knows what it doesn't know.

    images  ->  model  ->  bounds  ->  scores  ->  calibration  ->  report / tui
    what        p and q    L, L^{>k}   an HDF5     is it OOD,       for people
    comes in               LLR^{>k}    file        how sure?

`images/` turns folders, lists, IDX files, arrays and data sets into pixels; `model/` holds the
ladder of latents; `scoring/bounds.py` is the method (Havtorn et al., 2021), and the rest of
`scoring/` runs it over many images; `store/` keeps the scores in a file; `calibration/` decides
which images are flagged; `report/` and `tui/` show the result; `cli/` holds the commands.

The Python API is `Detector`, a scikit-learn estimator. It is imported lazily, so that
`import hvaeood_cli` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvaeood_cli.version import __version__

if TYPE_CHECKING:
    from hvaeood_cli.detector import Detector

__all__ = ["Detector", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Detector":
        from hvaeood_cli.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
