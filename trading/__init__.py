"""The ground floor: pure domain and kernel. No I/O, no clock, no Dagster, no pandas on hot paths."""
