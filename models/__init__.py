"""A backbone with its heads: built, started from weights, saved, loaded, given another head."""
