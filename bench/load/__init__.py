"""Many people who use a service for a while and think between traces: see ``python -m bench.load --help``."""
