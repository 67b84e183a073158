"""Frames: from detector counts to counts that mean diffracted photons.

A frame of a dark-field X-ray microscope is an objective lens's image of the diffracted beam on a scintillator, read by
a camera. The counts of the camera have four parts. An *offset* that the electronics add, about 100 counts. The
*background*: light that does not come from the reflection (air and lens scattering, dark current), smooth over the
image and nearly constant over the scan. The diffracted signal, on which everything else in this package works, with a
variance of about half a count per count and 2.6 counts of read noise. And *zingers*: photons or cosmic rays that hit
the sensor directly, some thousand counts in a few pixels of a single frame.

The order matters. Zingers come out first: comparing a voxel with its neighbours along the scan, at the same pixel,
reveals them. (A quantile background ignores them anyway.) The background follows from each pixel's own curve: a low
quantile over the scan is the level at which the pixel does not diffract, as long as it does not diffract most of the
time. Hot and dead pixels are those whose background differs from that of their neighbours. Normalisation by the beam
monitor or the exposure scales the counts above the offset. It is the only step that leaves the integers of the
detector; the map ``full_well`` therefore passes the saturated pixels on to later steps.

A wrong background is not a small error: with the offset left in, the centre of mass of a real rocking scan shrank
towards mid-scan to 0.43 of its true span, and the width grew by 15 %. No step here assumes a background of zero
silently: that takes an explicit ``method="none"``.
"""

from dfxm_dask.frames.background import background
from dfxm_dask.frames.hot_pixels import hot_pixels
from dfxm_dask.frames.normalise import normalise
from dfxm_dask.frames.zingers import zingers

__all__ = ["background", "hot_pixels", "normalise", "zingers"]
