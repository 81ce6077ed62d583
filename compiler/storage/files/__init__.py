"""Files on a disk: written in one pass, checked by digest and CRC, put in place in one step."""
