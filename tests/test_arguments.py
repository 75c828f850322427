"Wrong arguments are refused at the door, in one line that names them."

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from l2m.arguments import Between, Count, Share, checked, fits


class Reader(Protocol):
    name: str

    def read(self, tokens): ...


class Named:
    name = "named"


class Counted(Named):
    read = 3


@checked
def measure(
    lengths: Sequence[int] = (4,),
    table: pl.DataFrame | None = None,
    draws: Count = 10,
    weight: Share = 0.8,
    method: Literal["direct", "vclub"] = "direct",
    reader: Reader | None = None,
    path: str | Path = "",
    law: Callable = math.log,
    interval: tuple[float, float] = (0, 1),
    **more: int,
) -> Any:
    "Measure."
    return locals()


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(lengths=64), "lengths is 64, expected a list of whole numbers: write [64]"),
        (dict(lengths="64"), "lengths is '64', expected a list of whole numbers"),
        (dict(lengths=[4, 2.5]), "lengths is [4, 2.5], expected a list of whole numbers"),
        (dict(lengths=np.eye(2)), "lengths is a numpy.ndarray of shape (2, 2), expected a list of whole numbers"),
        (dict(lengths=torch.tensor(4)), "lengths is a torch.Tensor of shape (), expected a list of whole numbers"),
        (dict(lengths={4: 1}), "lengths is {4: 1}, expected a list"),
        (
            dict(table=pd.DataFrame({"x": [1]})),
            "expected a polars.DataFrame or None: convert it with polars.from_pandas",
        ),
        (dict(draws=0), "draws is 0, expected a whole number, at least 1"),
        (dict(draws=4.0), "draws is 4.0, expected a whole number, at least 1: write 4"),
        (dict(draws=2**64), "draws is 18446744073709551616, expected a whole number, at least 1, in 64 bits"),
        (dict(lengths=[4, 10**30]), "expected a list of whole numbers, in 64 bits"),
        (dict(draws=True), "draws is True, expected a whole number"),
        (dict(draws=None), "draws is None, expected a whole number"),
        (dict(weight=math.nan), "weight is nan, expected a finite number, from 0 to 1"),
        (dict(weight=1.5), "weight is 1.5, expected a finite number, from 0 to 1"),
        (dict(method="clever"), "method is 'clever', expected one of 'direct', 'vclub'"),
        (dict(reader=Named()), "Reader or None, and it has no read"),
        (dict(reader=Counted()), "Reader or None, and it has no read"),
        (dict(path=1984), "path is 1984, expected text or a Path"),
        (dict(law="log"), "law is 'log', expected a function"),
        (dict(interval=[0.7]), "interval is [0.7], expected 2 values (a finite number, a finite number)"),
    ],
)
def test_a_wrong_argument_is_named(wrong, said):
    with pytest.raises(ValueError) as error:
        measure(**wrong)
    assert str(error.value).startswith("measure: ") and said in str(error.value)


@pytest.mark.parametrize(
    "right",
    [
        dict(lengths=[4, 16]),
        dict(lengths=range(3)),
        dict(lengths=np.array([4, 8])),
        dict(lengths=torch.tensor([4])),
        dict(lengths=pl.Series([4])),
        dict(lengths=[]),
        dict(table=pl.DataFrame()),
        dict(draws=np.int64(3)),
        dict(weight=1),
        dict(weight=np.float32(0.5)),
        dict(path=Path("x")),
        dict(law=len),
        dict(interval=[0, 1]),
        dict(other="as it is"),
    ],
)
def test_right_arguments_pass_as_they_are(right):
    got = measure(**right)
    for name, value in right.items():
        assert got["more"]["other"] == value if name == "other" else got[name] is value


def test_python_still_refuses_what_is_missing_or_unknown():
    with pytest.raises(TypeError, match="multiple values"):
        measure([4], lengths=[4])
    with pytest.raises(TypeError, match="missing"):
        fits(1)


def test_a_dataclass_is_checked_when_it_is_made():
    @checked
    @dataclass(frozen=True)
    class Urn:
        "An urn."

        colours: Annotated[int, Between(2)]
        balls: float = 1.0

    assert Urn(3).colours == 3 and Urn(3) == Urn(3, 1.0)
    with pytest.raises(ValueError, match="Urn: colours is 1, expected a whole number, at least 2"):
        Urn(1)
    with pytest.raises(ValueError, match="Urn: balls is 'many', expected a finite number"):
        Urn(3, "many")
