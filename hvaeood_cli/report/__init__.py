"""Score files for people who were not there: one offline page, or rows for programs.

`labels.py` and `evaluation.py` compare scores with what is known, `gallery.py` shows the odd
images, `figures.py` draws, `contents.py` gathers all that a page says, and `page.py` and
`markdown.py` write it down; `rows.py` gives the scores as JSON and CSV. Never imports torch.
"""
