"""Capacity planning: simulate a day's load on a number of GPUs, from measured chunk times."""
