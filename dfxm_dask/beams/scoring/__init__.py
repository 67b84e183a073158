"""Scores of classifiers, maps and masks against labels and true lines."""
