"""The bridge to nnU-Net: names of data sets, plans, how it finds the trainers, checkpoints, ranks, export."""
