"""Pictures to bytes: the H.264 encoder and the MP4 fragment muxer."""
