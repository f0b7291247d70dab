"""What the shell sees: one file a command; each parses, calls one verb and prints."""
