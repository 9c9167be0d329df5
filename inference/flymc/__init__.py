"""Firefly Monte Carlo: exact posteriors from a handful of rows."""
