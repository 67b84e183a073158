"""Frames: from detector counts to counts that mean diffracted photons.

A frame of a dark-field X-ray microscope is an objective lens's image of the diffracted beam on a scintillator, read by
a camera. What the camera counts has four parts. An *offset* that the electronics add, about 100 counts. The
*background*: light that does not come from the reflection (air and lens scattering, dark current), smooth over the
image and nearly constant over the scan. The diffracted signal, on which everything else in this package works, with a
variance of about half a count per count and 2.6 counts of read noise. And *zingers*: photons or cosmic rays that hit
the sensor directly, some thousand counts in a few pixels of a single frame.

The order matters. Zingers come out first, since they are found by comparing a voxel with its neighbours along the
scan, at the same pixel; a quantile background then does not see them anyway. The background is taken from each pixel's
own curve: a low quantile over the scan is the level at which the pixel does not diffract, as long as it does not
diffract most of the time. Hot and dead pixels are those whose background differs from that of their neighbours.
Normalisation by the beam monitor or the exposure scales the counts above the offset; it is the only step that leaves
the integers of the detector, and saturation is told by the map ``full_well`` that it hands on.

A wrong background is not a small error: with the offset left in, the centre of mass of a real rocking scan shrank
towards mid-scan to 0.43 of its true span, and the width grew by 15 %. No step here guesses silently that there is none:
``background`` with ``method="none"`` has to be said.
"""

from dfxm_dask.frames.background import background
from dfxm_dask.frames.hot_pixels import hot_pixels
from dfxm_dask.frames.normalise import normalise
from dfxm_dask.frames.zingers import zingers

__all__ = ["background", "hot_pixels", "normalise", "zingers"]
