"""Engines, which score the images of a run: on one machine, or on many."""
