"""Find the images that do not belong, with a hierarchical VAE that knows what it doesn't know.

    images  ->  model  ->  bounds  ->  scores  ->  calibration  ->  report / tui
    what        p and q    L, L^{>k}   an HDF5     is it OOD,       for people
    comes in               LLR^{>k}    file        how sure?

`images/` turns folders, lists, IDX files, arrays and data sets into pixels; `model/` holds the
ladder of latents; `scoring/bounds.py` is the method (Havtorn et al., 2021); the rest of `scoring/`
run it over many images; `store/` keeps the result; `calibration/` decides; `report/` and `tui/`
show it; `cli/` is the shell's side of it.

The Python API is `Detector`, in scikit-learn's manners. It is imported lazily, so that
`import hvaeood_cli` costs nothing.
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
