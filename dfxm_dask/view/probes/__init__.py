"""Pictures on request: one variable, the rocking curve of a pixel, values along a line, difference of two stores."""
