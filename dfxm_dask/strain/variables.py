"""Variables of a set of reflections, and of the maps that several steps of this room exchange."""

from __future__ import annotations

from dfxm_dask.schema import SPACE, XYZ, Dim, Variable

REFLECTION = "reflection"
ANGLES = ("two_theta", "phi", "chi")
"""Order of the dim ``angle``."""
MOTORS = ("mu", "omega", "eta", "theta")
"""Order of the dim ``motor``."""
ANGLE, ANGLE2, INDEX, MOTOR = Dim("angle", 3), Dim("angle2", 3), Dim("index", 3), Dim("motor", 4)
ROW, COLUMN, YX = Dim("row", 3), Dim("column", 3), Dim("yx", 2)
COMPONENT, COMPONENT2 = Dim("component", 9), Dim("component2", 9)
"""Components of a tensor, 3 row + column."""
XYZ2 = Dim("xyz2", 3)
TENSOR = (*SPACE, ROW, COLUMN)

CENTRE = Variable(
    "centre",
    ("z", REFLECTION, "y", "x", ANGLE),
    "float64",
    "degree",
    "deviation of the centre of mass from the reference lattice (two_theta, phi, chi)",
)
"""NaN in unlit pixels and along axes that were not scanned."""
CENTRE_COVARIANCE = Variable(
    "centre_covariance",
    ("z", REFLECTION, "y", "x", ANGLE, ANGLE2),
    "float32",
    "degree2",
    "covariance of the centre of mass (two_theta, phi, chi)",
)
HKL = Variable("hkl", (REFLECTION, INDEX), "int64", "1", "Miller indices of the reflection")
SETTING = Variable(
    "setting", (REFLECTION, MOTOR), "float64", "degree", "setting of the reflection (mu, omega, eta, theta)"
)
ZERO = Variable(
    "zero", (REFLECTION, ANGLE), "float64", "degree", "centre of mass of the reference lattice (two_theta, phi, chi)"
)
RECIPROCAL_LATTICE = Variable(
    "reciprocal_lattice", (ROW, COLUMN), "float64", "1/angstrom", "reciprocal lattice vectors a*, b*, c*, 2 pi included"
)
"""UB in the axes of the sample, with the vectors as columns: Q = UB hkl."""
WAVELENGTH = Variable("wavelength", (REFLECTION,), "float64", "angstrom", "wavelength of the beam")
SHIFT = Variable("shift", (REFLECTION, YX), "float64", "um", "displacement of the reflection from the first one (y, x)")
SHIFT_ERROR = Variable(
    "shift_error", (REFLECTION, YX), "float64", "um", "standard error of the displacement of the reflection (y, x)"
)
SET = (CENTRE, CENTRE_COVARIANCE, HKL, SETTING, ZERO, RECIPROCAL_LATTICE, WAVELENGTH, SHIFT, SHIFT_ERROR)
"""Group ``raw`` of a set of reflections."""

SCATTERING_VECTOR = Variable(
    "scattering_vector", ("z", REFLECTION, "y", "x", XYZ), "float64", "1/angstrom", "scattering vector (x, y, z)"
)
SCATTERING_VECTOR_COVARIANCE = Variable(
    "scattering_vector_covariance",
    ("z", REFLECTION, "y", "x", XYZ, XYZ2),
    "float32",
    "1/angstrom2",
    "covariance of the scattering vector",
)
DEFORMATION = Variable("deformation", TENSOR, "float64", "1", "deformation gradient")
DEFORMATION_ERROR = Variable("deformation_error", TENSOR, "float32", "1", "standard error of the deformation gradient")
DEFORMATION_COVARIANCE = Variable(
    "deformation_covariance",
    (*SPACE, COMPONENT, COMPONENT2),
    "float32",
    "1",
    "covariance of the deformation gradient, component 3 row + column",
)
UNLIT, REFLECTION_MISSING, ANGLE_MISSING, COPLANAR, IMPLAUSIBLE, WITHOUT_ERROR, UNSOLVED = (1, 2, 4, 8, 16, 32, 64)
DEFORMATION_REASON = Variable(
    "deformation_reason",
    SPACE,
    "uint8",
    "1",
    "reason of missing components or errors of the deformation gradient",
    flags=(
        (UNLIT, "unlit"),
        (REFLECTION_MISSING, "reflection_missing"),
        (ANGLE_MISSING, "angle_missing"),
        (COPLANAR, "fewer_than_three_non_coplanar_reflections"),
        (IMPLAUSIBLE, "implausible_deformation"),
        (WITHOUT_ERROR, "without_error"),
        (UNSOLVED, "equations_without_solution"),
    ),
)
"""0 where all components and their errors are determined."""

REFERENCE = Variable(
    "reference_deformation", (ROW, COLUMN), "float64", "1", "mean deformation gradient of the reference region"
)
NYE = Variable("nye", TENSOR, "float64", "1/um", "Nye tensor of the dislocation density")
NYE_ERROR = Variable("nye_error", TENSOR, "float32", "1/um", "standard error of the Nye tensor")
DENSITY = Variable("density", SPACE, "float32", "1/um2", "lower bound of the density of dislocations")
DENSITY_FLOOR = Variable(
    "density_floor", SPACE, "float32", "1/um2", "expected density of dislocations from noise alone"
)
