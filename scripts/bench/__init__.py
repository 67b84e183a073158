"""Benchmarks of the package against floors and peers; run them with ``python scripts/benchmark.py``."""
