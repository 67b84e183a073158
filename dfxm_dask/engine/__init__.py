"""The engine: from a declaration and a scan to arrays, by one kernel for one layer and one lazy graph for all layers.

It depends on no room: the declaration of a reduction lists its inputs, its outputs, and the dims that it needs whole.
"""
