"""Unattended nights: find new scans under raw roots, ingest them, run the recipes, and remember what became of each."""
