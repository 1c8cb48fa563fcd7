"""A score for two images: one builder function per metric, and the contract that they all keep."""
