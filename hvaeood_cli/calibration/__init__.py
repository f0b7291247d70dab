"""From scores to decisions: one combined score, conformal p-values, flags at an error rate.

`density.py` combines an image's statistics into one score, `conformal.py` turns scores into
p-values, `calibration.py` keeps what both need for one model and its settings, `rules.py` flags
images, and `drift.py` tests a batch as a whole. `batch.py` compares the images of a batch with one
another where there is no calibration, and `ranking.py` orders them by either. Never imports torch.
"""
