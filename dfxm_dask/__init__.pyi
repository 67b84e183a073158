"""The public names, for completion, type checkers and the loader that imports each when it is first used."""

from .beams import (
    classify_beams as classify_beams,
)
from .beams import (
    enhance_beams as enhance_beams,
)
from .beams import (
    integrate_beams as integrate_beams,
)
from .beams import (
    isolate_lines as isolate_lines,
)
from .beams import (
    local_peak as local_peak,
)
from .beams import (
    threshold_beams as threshold_beams,
)
from .boundaries import (
    characterise_boundaries as characterise_boundaries,
)
from .components import (
    gram_schmidt as gram_schmidt,
)
from .components import (
    nica as nica,
)
from .components import (
    nmf as nmf,
)
from .components import (
    pca as pca,
)
from .components import (
    project_gram_schmidt as project_gram_schmidt,
)
from .components import (
    project_nica as project_nica,
)
from .components import (
    project_nmf as project_nmf,
)
from .components import (
    project_pca as project_pca,
)
from .errors import (
    DfxmError as DfxmError,
)
from .example import (
    example_scan as example_scan,
)
from .frames import (
    background as background,
)
from .frames import (
    hot_pixels as hot_pixels,
)
from .frames import (
    normalise as normalise,
)
from .frames import (
    zingers as zingers,
)
from .rocking import (
    classify_defects as classify_defects,
)
from .rocking import (
    fit_curves as fit_curves,
)
from .rocking import (
    integrated_curve as integrated_curve,
)
from .rocking import (
    kam as kam,
)
from .rocking import (
    moments as moments,
)
from .rocking import (
    mosaicity as mosaicity,
)
from .run.execute import (
    run_recipe as run_recipe,
)
from .schema import (
    Variable as Variable,
)
from .store.calibrate import (
    calibrate as calibrate,
)
from .store.ingest import (
    ingest as ingest,
)
from .store.scan import (
    open_scan as open_scan,
)
from .store.simulate import (
    simulate as simulate,
)
from .volume import (
    align_layers as align_layers,
)
from .volume import (
    link_layers as link_layers,
)
from .volume import (
    reconstruct as reconstruct,
)

__version__: str
