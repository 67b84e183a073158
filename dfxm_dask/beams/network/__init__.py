"""Networks that distinguish weak-beam from strong-beam patches: architectures, weights, training, labels, inference."""
