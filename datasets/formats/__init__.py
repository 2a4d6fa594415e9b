"""One file per format, read and written."""
