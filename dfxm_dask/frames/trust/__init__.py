"""Checks of a raw scan from the small statistics of its frames: whether the frames and the positions can be trusted."""
