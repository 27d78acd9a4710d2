"""Benchmarks: what this installation takes and gives, beside goals; `make bench` runs them."""
