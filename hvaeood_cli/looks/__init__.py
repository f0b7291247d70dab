"""What there is to see of a scored image: itself, and what the model makes of it from each k."""
