"""Options of target `checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.targets.options import TargetOptions, option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.lmi.checkpoint import Profile


@dataclass(frozen=True)
class CheckpointOptions(TargetOptions):
    """Options of target `checkpoint`. `profile`: back end that will load the files, "" for that of the image.
    `serving`: properties `NAME=VALUE` of the container. `uri`: S3 prefix of the artifact, "" for none.
    """

    image: str = option("", "LMI image that will serve it.")
    profile: str = option("", "Back end: vllm, lmi-dist or deepspeed [default: the image's]")
    serving: tuple[str, ...] = option(
        (), "Property for serving.properties; may be repeated.", flags=("--option",), metavar="NAME=VALUE"
    )
    uri: str = option(
        "",
        "S3 prefix of the artifact: adds a model_data.tar.gz that names it.",
        flags=("--artifact-uri",),
        metavar="URI",
    )

    @property
    def backends(self) -> tuple[str, ...]:
        """The back end of the profile, or all of the image. Raises UsageError, RefusedError."""
        from compiler.lmi.checkpoint import profiles_of

        return profiles_of(self.profile, self.image)

    @property
    def release(self) -> tuple[int, int] | None:
        """LMI release of the image, or the newest one with the back end. Raises UsageError, RefusedError."""
        return self.resolved.release

    @property
    def default_batch(self) -> int | None:
        """Default of `option.max_rolling_batch_size` in the release."""
        return self.resolved.rows

    @property
    def resolved(self) -> Profile:
        """Back end and release. Raises UsageError, RefusedError."""
        from compiler.lmi.checkpoint import profile_of

        return profile_of(self.profile, self.image)

    @property
    def properties(self) -> Mapping[str, str | int | float | bool]:
        """Requested properties of the container, by full name. Raises UsageError, RefusedError."""
        from compiler.lmi.serving_options import serving_options

        return serving_options(self.serving, self.release, self.backends[0]).values if self.serving else {}


OPTIONS = CheckpointOptions
