"""Who runs the rows: one machine, or many."""
