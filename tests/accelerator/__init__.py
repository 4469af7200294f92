"""The package on an accelerator that is none: what would go wrong on a GPU, found on a machine without one."""
