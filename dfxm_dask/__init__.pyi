"""The public names, for completion, type checkers and the loader that imports each when it is first used."""

from .beams.classify import classify_beams as classify_beams
from .beams.contrast import enhance_beams as enhance_beams
from .beams.integrate import integrate_beams as integrate_beams
from .beams.isolated_lines import isolate_lines as isolate_lines
from .beams.local_peak import local_peak as local_peak
from .beams.mask import threshold_beams as threshold_beams
from .boundaries.characterise import characterise_boundaries as characterise_boundaries
from .components.gram_schmidt import gram_schmidt as gram_schmidt
from .components.nica import nica as nica
from .components.nmf import nmf as nmf
from .components.pca import pca as pca
from .components.project import project_gram_schmidt as project_gram_schmidt
from .components.project import project_nica as project_nica
from .components.project import project_nmf as project_nmf
from .components.project import project_pca as project_pca
from .dynamics.motion import motion as motion
from .dynamics.track import track as track
from .errors import DfxmError as DfxmError
from .example import example_scan as example_scan
from .frames.background import background as background
from .frames.hot_pixels import hot_pixels as hot_pixels
from .frames.normalise import normalise as normalise
from .frames.zingers import zingers as zingers
from .rocking.fit_curves import fit_curves as fit_curves
from .rocking.integrated_curve import integrated_curve as integrated_curve
from .rocking.kam import kam as kam
from .rocking.moments import moments as moments
from .rocking.mosaicity import mosaicity as mosaicity
from .rocking.rotation import classify_defects as classify_defects
from .run.execute import run_recipe as run_recipe
from .schema import Variable as Variable
from .store.calibrate import calibrate as calibrate
from .store.scan import open_scan as open_scan
from .view.answers import info as info
from .view.answers import ingest as ingest
from .view.answers import plan as plan
from .view.answers import report as report
from .view.answers import verify as verify
from .view.export import export as export
from .view.pictures import figures as figures
from .view.simulation import simulate as simulate
from .volume.align import align_layers as align_layers
from .volume.reconstruct import link_layers as link_layers
from .volume.reconstruct import reconstruct as reconstruct

__version__: str
