"""Images as input: their sources, their bytes, and the pixels that a model takes."""
