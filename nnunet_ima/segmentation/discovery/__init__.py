"""The folder that `nnUNet_extTrainer` points to: re-exports only, for nnU-Net imports every module in it."""
