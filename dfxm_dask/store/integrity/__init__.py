"""Integrity of a store: ledgers of complete blocks, digests of every file, and the lock of one run at a time."""
