"""Views: figures, reports, tables, comparisons with truth, and files for other programs, all drawn from stores."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package is also the function ``dfxm_dask.view``: an import of a part of it would hide the function."""

    def __call__(self, *stores: Any, **options: Any) -> Any:
        from dfxm_dask.view.browser.opening import view

        return view(*stores, **options)


sys.modules[__name__].__class__ = _Callable
