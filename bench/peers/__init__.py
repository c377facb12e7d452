"""Servers to compare with, programs of their own: nothing imports them."""
