"""Distortion fields of defects: straight dislocations, segments and loops, walls, subgrains, and scenes of all of them."""
