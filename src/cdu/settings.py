"""The base of every block of settings, and the hash of their values."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _kinds_of(value: Any) -> set[bool]:
    """Whether a value, or one in a list, is yes or no; and whether one is not."""
    return {isinstance(one, bool) for one in (value if isinstance(value, list | tuple) else [value])}


class Settings(BaseModel):
    """Base of every block: unknown keys are errors, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            if field is not None and field.annotation is not bool and True in _kinds_of(value):
                raise ValueError(f"'{name}' is {value!r}; yes and no are no numbers here")
        return content


Value = int | float | str


def digest(value: Any) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
