"""The engine: from a declaration and a scan to arrays; one kernel on one layer, one lazy graph over all of them.

It knows no room: what a reduction reads, writes and keeps whole stands in its declaration.
"""
