"""What comes in: sources of images, their bytes, and the pixels that a model takes."""
