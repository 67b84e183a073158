"""Views: figures, reports, tables, comparisons with truth, and files for other programs, all drawn from stores.

The package is also a function: ``dfxm_dask.view(store)`` is :func:`dfxm_dask.view.browser.opening.view`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _View(ModuleType):
    """This package, which can be called: a function of its name would hide its modules."""

    def __call__(self, *stores: Any, **options: Any) -> Any:
        from dfxm_dask.view.browser.opening import view

        return view(*stores, **options)


sys.modules[__name__].__class__ = _View
