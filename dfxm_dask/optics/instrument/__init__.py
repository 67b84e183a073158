"""The instrument: beam, objective and pixels of the microscope, and its camera."""
