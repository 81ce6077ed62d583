"""Calibration data sets: files of the hub, and rows of tables."""
