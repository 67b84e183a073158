"""The store: one Zarr v3 array of counts for each stack, labelled, cut so that a layer is one unit of work.

Ingest writes it layer by layer; ledgers say which blocks are complete and bind every byte to a digest, so that an
interrupted run resumes and a result that is not complete cannot be opened as if it were.
"""
