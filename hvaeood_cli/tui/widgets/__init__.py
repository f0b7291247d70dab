"""The workbench's widgets, one file each."""
