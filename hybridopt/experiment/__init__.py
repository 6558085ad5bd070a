"""Runs and sweeps: config, one training loop, checkpoints, run store, launcher, trackers."""
