"""The typed configuration, one table per kind of part, and the shipped recipes. Imports no torch."""
