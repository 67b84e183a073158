"""From bright lobes in frames to positions of dislocation cores.

``search`` finds lobes in one frame. ``shape`` learns the shape of the images from all lobes of a movie. ``fit``
positions the cores of a frame with the forward model of ``templates``, in the pixels of each ``window``. ``published``
is the wavelet recipe of Gonzalez (2020).
"""
