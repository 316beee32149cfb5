"""Campaigns: what can happen to a run, done to real runs many times over, and counted."""
