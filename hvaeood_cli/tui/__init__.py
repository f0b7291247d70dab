"""The workbench in a terminal: see the scores, move the threshold, look at images, judge them.

    run.py        a score file beside its calibration: what can be plotted and sorted
    threshold.py  what is flagged, and how many of the flagged images are expected to belong
    view.py       what the user asks for, and one frozen snapshot that every widget is drawn from
    picker.py     chooses one of several score files, before the workbench opens it
    app.py        acts on what the user does; besides the picker, no other module opens files

`run`, `threshold`, `view`, `histogram`, `joint` and `taking` are arrays and plain Python. Screens
and widgets draw data, and post messages about what the user does. Never imports torch.
"""
