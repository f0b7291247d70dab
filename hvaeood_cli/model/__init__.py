"""The generative model p and the inference model q, and how they live on disk."""
