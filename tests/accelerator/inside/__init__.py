"""Tests that need the accelerator: run in a process of their own by `tests/accelerator/test_accelerator.py`."""
