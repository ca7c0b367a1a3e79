"""Training: a small loop, its data, and the recipe of the embedded model."""
