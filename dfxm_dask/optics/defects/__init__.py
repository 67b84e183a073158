"""Distortion fields of defects: straight dislocations, segments and loops, walls, subgrains, scenes."""
