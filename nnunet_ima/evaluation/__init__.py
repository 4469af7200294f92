"""The robustness of trained nnU-Net models: metrics, the noise sweep, its tables."""
