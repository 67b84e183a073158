"""Figures of moving dislocations and of located cores."""
