"""How to train with attacks; one file per method."""
