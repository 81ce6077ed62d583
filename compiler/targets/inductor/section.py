"""Section of target `inductor` in the manifest: the segments that the runtime runs."""

from compiler.runtime.section import Segments

SECTION = Segments
