"""From images to a model: the objective, a step, the loop, its checkpoints, and the whole run."""
