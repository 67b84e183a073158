"""Planes in clouds of points: hypotheses, a mixture that grows by well supported planes, and errors."""
