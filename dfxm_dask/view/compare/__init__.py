"""Results beside the truth or beside other results: boundaries, volumes, and methods of weak-beam maps."""
