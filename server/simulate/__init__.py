"""Capacity planning: a day's load played against so many GPUs, from measured chunk times."""
