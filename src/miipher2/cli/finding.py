"""What `miipher2 doctor` finds: a fact, whether it needs mending, and how it is mended."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Finding:
    """One thing that was found.

    Args:
        kind: a word for scripts: process, head, lock, params, checkpoint, temporary, replaced.
        text: what it is and what it means.
        commands: what a user types to mend it, in this order.
        is_problem: False for what is as it should be, and worth knowing.
        fix: mends it, where that cannot lose work.
    """

    kind: str
    text: str
    commands: list[str] = field(default_factory=list)
    is_problem: bool = True
    fix: Callable[[], None] | None = None
    is_fixed: bool = False
