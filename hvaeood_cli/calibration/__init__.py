"""From scores to decisions: one combined score, conformal p-values, flags at an error rate.

`density.py` combines an image's statistics into one score, `conformal.py` turns scores into
p-values, `calibration.py` keeps what both need for one model and its settings, `rules.py` flags
images, and `drift.py` tests a batch as a whole. `reference.py` stands in for a calibration where
there is none, and `ranking.py` orders a run's images by either. Never imports torch.
"""
