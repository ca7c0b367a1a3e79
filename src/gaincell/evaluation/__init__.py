"""Evaluation: perplexity by a named protocol, and dumps of what one layer computes."""
