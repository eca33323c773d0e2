"""Settings of forget sets."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cdu.settings import Count, Settings


class ForgetSettings(Settings):
    """Which training samples are to be unlearned.

    ``random`` draws ``size`` of them uniformly (the paper's choice); ``class`` takes ``size`` samples of
    class ``label`` (all of them when no size is given); ``indices`` takes exactly those listed.
    """

    kind: Literal["random", "class", "indices"] = "random"
    size: Count | None = None
    label: int | None = None
    indices: Annotated[tuple[int, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ForgetSettings":
        needed = {"random": self.size, "class": self.label, "indices": self.indices}[self.kind]
        if needed is None:
            field = {"random": "size", "class": "label", "indices": "indices"}[self.kind]
            raise ValueError(f"a forget set of kind '{self.kind}' needs '{field}'")
        return self
