"""Durable jobs: a video that is ordered over REST, survives what dies, and is downloaded when it is done."""
