"""Computing resources of a run: this machine, a running scheduler, or batch jobs; and the environment of workers."""
