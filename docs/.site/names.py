"""Which names the reference leaves out besides those with an underscore."""

from __future__ import annotations

from typing import Any

import griffe


class WithoutInnerAttributes(griffe.Extension):
    """Leaves out what methods set on `self` and no docstring speaks of: layers of networks, mostly."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe when it has read the package."""
        _leave_out(pkg)


def _leave_out(owner: griffe.Module | griffe.Class) -> None:
    members = [member for member in owner.members.values() if not member.is_alias]
    methods = [(member.lineno or 0, member.endlineno or 0) for member in members if isinstance(member, griffe.Function)]

    def is_inner(member: griffe.Object) -> bool:
        return not member.has_docstring and any(first < (member.lineno or 0) <= last for first, last in methods)

    for member in members:
        if isinstance(member, griffe.Module | griffe.Class):
            _leave_out(member)
        elif isinstance(member, griffe.Attribute) and is_inner(member):
            del owner.members[member.name]
