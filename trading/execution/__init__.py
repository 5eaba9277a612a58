"""Execution algorithms: how one approved entry is worked in several orders. Pure: schedules, slices, profiles.

A parent is the approved entry; its slices are orders of their own. The rules here are asked by the desk and by the backtest.
"""
