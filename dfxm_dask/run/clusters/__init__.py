"""Where a run computes: this machine, a running scheduler, or jobs of a batch system; and what a worker starts with."""
