"""Dark-field X-ray microscopy scans, larger than memory, reduced to labelled maps.

The names in ``__init__.pyi`` are the package; each loads when it is first used.
"""

from __future__ import annotations

import lazy_loader

from dfxm_dask.surroundings import keep_kernels_somewhere

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

keep_kernels_somewhere()  # before the first kernel is declared
