"""Pure numbers for both tasks: robustness indices, intervals, paired tests, surface distances."""
