"""Languages and tasks whose answer is known by construction, and tiny models trained on them."""
