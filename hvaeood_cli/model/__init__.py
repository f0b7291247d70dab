"""The generative model p and the inference model q, and how they are kept on disk."""
