"""Rows of calibration data sets."""
