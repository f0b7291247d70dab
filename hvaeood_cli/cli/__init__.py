"""The commands, one file each: a command parses its options, calls one function and prints."""
