"""Results beside what is true or beside other results: boundaries, volumes, and methods of weak-beam maps."""
