# expect: ['id', 'name', 'parts'] Row(id=1, name=None) row
from dataclasses import dataclass, fields, field
from typing import ClassVar, Optional, List
@dataclass
class Row:
    kind: ClassVar[str] = "row"
    id: int
    name: Optional[str] = None
    parts: List[int] = field(default_factory=list, repr=False)
print([f.name for f in fields(Row)], Row(1, parts=[2]), Row.kind)
