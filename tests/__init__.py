"""Mirrors the tree, one test module per module."""
