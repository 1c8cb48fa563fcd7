"""Recipes that train this package's own networks."""
