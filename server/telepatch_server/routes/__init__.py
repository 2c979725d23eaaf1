"""The calls, one file per resource; each has a `router`."""
