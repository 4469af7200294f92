"""The nnU-Net side: loader, trainers, objective, settings."""
