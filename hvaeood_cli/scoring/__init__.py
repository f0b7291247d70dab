"""From pixels to scores: L, L^{>k} and LLR^{>k} of any images, by any engine, into a score file."""
