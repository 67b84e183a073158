"""The store: one labelled Zarr v3 array of counts for each stack, cut so that one layer is one unit of work.

Ingest writes the store layer by layer. Ledgers record which blocks are complete, and bind every byte to a digest: an
interrupted run resumes, and an incomplete result cannot be opened by mistake.
"""
