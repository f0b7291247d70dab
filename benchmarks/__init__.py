"""Measurements that print ratios; run as `python -m benchmarks.NAME`."""
