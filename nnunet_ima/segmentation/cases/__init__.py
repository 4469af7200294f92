"""What is evaluated: trained models, their cases, slices and tiles."""
