"""Whole installations, started as a person would."""
