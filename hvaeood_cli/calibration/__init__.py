"""From scores to decisions: conformal p-values, one combined score, flags with an error rate.

`conformal.py` turns scores into p-values, `density.py` combines what the bounds say into one
score, `calibration.py` keeps both for one model and its settings, `rules.py` flags, and
`drift.py` asks about a batch as a whole. NumPy, SciPy and scikit-learn; never torch.
"""
