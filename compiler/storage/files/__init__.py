"""Files on a disk: written in one pass, checked by digest and CRC, moved into place atomically."""
