"""Procedural objects with exact identity, pose, light, background and mask: the embedded data source.

identity = what an object is (shape, materials, labels); view = how it is seen; near-identity = one intrinsic change.
"""
