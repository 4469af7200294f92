"""What an attack sees of a slice: losses, Dice, correctness."""
