"""What all sections of the configuration share."""

from enum import Enum
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from advdmd_ray.config.texts import text_fault

T = TypeVar("T")

MOST = 10**9
"""Of any count: beyond it is a slip of the finger."""
Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
PixelSide = Annotated[int, Field(ge=8, le=8192)]
Rate = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of what was there before; at 1 the first value would stay for ever."""
Weight = Annotated[float, Field(ge=0)]


class Resume(Enum):
    """Whether a resumed run may have another value of a setting; every setting of `Config` says it in its type."""

    FREE = "It may."
    PLACE = "It may: this is where things are kept, and no result hangs on it."
    FIXED = "It may not: the prompt stream, the pace, the groups or what a checkpoint holds hang on it."
    STUDENT = "It may not, and an export neither: the student hangs on it, beside its weights."


Free = Annotated[T, Resume.FREE]
Place = Annotated[T, Resume.PLACE]
Fixed = Annotated[T, Resume.FIXED]
OfStudent = Annotated[T, Resume.STUDENT]


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError(f"expected something else than true or false, got {str(value).lower()}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _text_is_plain(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and (fault := text_fault(text)) is not None:
                raise ValueError(fault)
        return value
