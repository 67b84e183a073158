"""Unattended nights: find new scans under raw roots, ingest them, run the recipes, and record the outcome of each."""
