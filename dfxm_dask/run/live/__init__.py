"""Scans that are reduced while they are measured."""
