"""Fixtures of stores, and a cache of its own for every test."""

from tests.stores import *
