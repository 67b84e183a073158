"""Planes in clouds of points: hypotheses, a mixture that grows by what each plane explains, and errors."""
