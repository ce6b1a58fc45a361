"""Media: H.264 and JPEG encoders, MP4 muxing, input pictures."""
