"""Section of target `inductor` in the manifest: segments for the runtime."""

from compiler.runtime.section import Segments

SECTION = Segments
