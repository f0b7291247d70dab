"""Looks: a scored image beside what the model reconstructs of it from each k."""
