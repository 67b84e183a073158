"""A page in the browser that slices stores of any size: frames, maps, curves, sections, boundaries and labels."""
