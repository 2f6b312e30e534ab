# expect: {'label': 'yes', 'score': 0.5} 7 {'label': 'no'}
from typing import TypedDict, Literal, Optional, cast
class Answer(TypedDict, total=False):
    label: Literal["yes", "no"]
    score: float
a: Answer = {"label": "yes"}
a["score"] = 0.5
print(a, cast(int, "7"), Answer(label="no"))
