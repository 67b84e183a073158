"""Single dislocations in a map of the distortion: where they pierce a layer, and their Burgers vectors.

The closed integral of the distortion around a dislocation is its Burgers vector, whatever the shape of the contour. A
map of small contours around every pixel is therefore zero within its noise, except at the cores
(:func:`dislocation_cores`).
"""
