"""Chunk formats that a viewer can choose."""

VIDEO_FORMATS = ("m4s", "h264", "jpeg")  # fMP4 fragments, H.264 access units, one JPEG per picture
