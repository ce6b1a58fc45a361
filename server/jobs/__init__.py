"""Durable video jobs: requested over REST, resumed after crashes, downloaded when complete."""
