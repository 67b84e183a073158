"""Figures of identified dislocations: ranked candidates, visibility, and images beside those of the model."""
