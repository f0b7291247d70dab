"""The workbench in a terminal: see the scores, move the threshold, look at images, judge them.

    run.py        a score file beside its calibration: what can be plotted and sorted
    threshold.py  what is flagged, and how many of these are expected to belong
    view.py       what is asked for -> one frozen snapshot that every widget is drawn from
    app.py        hears what the user did, and is the only one to open files

`run`, `threshold`, `view`, `histogram`, `joint` and `taking` are arrays and plain Python. Screens
and widgets are given data and say what the user did. Never imports torch.
"""
