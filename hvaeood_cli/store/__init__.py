"""The score file (HDF5) and the journal that makes writing it crash-safe; never imports torch."""
