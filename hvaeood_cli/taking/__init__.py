"""Takes flagged images away: copies, links or moves their files, and puts moved ones back."""
