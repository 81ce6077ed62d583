from compiler.artifact.sections import InnerPath, Section


class Graphs(Section, extra="forbid"):
    cores: int
    graphs: tuple[InnerPath, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return self.graphs

    def facts(self) -> list[tuple[str, str]]:
        return [("toy", f"{self.cores} cores")]


SECTION = Graphs
