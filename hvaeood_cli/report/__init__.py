"""Reports of score files: one offline page for people, or rows for programs.

`labels.py`, `metrics.py` and `evaluation.py` compare scores with labels, `gallery.py` shows the odd
images, `figures.py` draws, `contents.py` gathers all that a report says, and `page.py` and
`markdown.py` write it; `rows.py` gives the scores as JSON and CSV. Never imports torch.
"""
