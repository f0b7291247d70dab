"""Status codes: what became of each image of a run."""

from __future__ import annotations

# What /images/status says; the numbers are part of the score file and never change their meaning.
STATUS_CODES = {
    "scored": 0,
    "missing": 1,  # there is no such file, or no longer
    "unreadable": 2,  # the system refused to read it
    "empty": 3,  # zero bytes
    "not_an_image": 4,  # no format that we read
    "damaged": 5,  # begins as an image and ends in nonsense, or too early
    "too_large": 6,  # more pixels than we decode
    "gone": 7,  # was among the images once, and is no longer; its scores are kept
}
GONE = STATUS_CODES["gone"]
