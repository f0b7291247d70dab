"""From images to a model: the objective, one step, the loop, its checkpoints, the whole run."""
