"""The paper's tables and figures by one command, ours beside the paper's: see `__main__`."""
