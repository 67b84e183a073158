"""Where a run computes: this machine, a running scheduler, or jobs of SLURM; and what a worker starts with."""
