"""The kinds of task there are, and where tasks come from."""

from __future__ import annotations

from typing import Literal

Kind = Literal["classification", "multiple_choice", "generation"]
Origin = Literal["path", "folder", "hub", "sample"]
