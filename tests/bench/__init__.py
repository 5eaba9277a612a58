"""Benchmarks keep working."""
