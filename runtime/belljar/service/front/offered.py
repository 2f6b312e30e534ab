"""What the front door offers to whom, by the name that a program gives as its model.

    rlm/NAME     a profile of the operator's, for the tenants that it names; else a model that the operator offers
    rlm/MODEL    where there is no profile at all, any model, under the standard policy, as `POST /v1/runs` takes it

A profile is a name, not a wall: which models may be asked for anything, a policy says.
"""

from __future__ import annotations

from typing import Final

from belljar.errors import InvalidInput
from belljar.identity import Tenant
from belljar.jobs import Asked, Context
from belljar.service.routes import Service
from belljar.service.settings import DEMO, Profile

__all__ = ["MODEL_PREFIX", "no_model", "offered", "ordered", "profile_of", "profiles_for"]

MODEL_PREFIX: Final = "rlm/"
_NAMED_MAX: Final = 20


def profiles_for(service: Service, tenant: Tenant) -> dict[str, Profile]:
    """The operator's profiles for this tenant, by the names that programs give."""
    found = service.settings.profiles
    return {f"{MODEL_PREFIX}{name}": one for name, one in found.items() if one.is_for(tenant)}


def offered(service: Service, tenant: Tenant) -> dict[str, Profile]:
    """All that this tenant is offered, profiles first."""
    demo = [DEMO] if service.host.knows_model(DEMO) else []
    models = {f"{MODEL_PREFIX}{name}": Profile(model=name) for name in (*service.settings.models, *demo)}
    own = profiles_for(service, tenant)
    return own | {name: one for name, one in models.items() if name not in own}


def profile_of(service: Service, model: str, tenant: Tenant) -> Profile:
    """How a run goes for which a program gives this model.

    Raises:
        InvalidInput: `front.model`.
    """
    if (found := offered(service, tenant).get(model)) is not None:
        return found
    name = model.removeprefix(MODEL_PREFIX)
    if name in ("", model) or service.settings.profiles:
        raise no_model(service, model, tenant)
    return Profile(model=name)


def ordered(
    profile: Profile, contexts: dict[str, Context], *, question: str | None = None, code: str | None = None
) -> Asked:
    """The order of a run that goes so. Of a program the root model is the one that its queries are asked of."""
    terms = {name: getattr(profile, name) for name in ("policy", "backend", "language")}
    model = profile.model or None  # a form may name none
    if question is not None:
        return Asked(question=question, model=model, sub_model=profile.sub_model, contexts=contexts, **terms)
    return Asked(code=code, sub_model=profile.sub_model or model, contexts=contexts, **terms)


def no_model(service: Service, model: str, tenant: Tenant) -> InvalidInput:
    """There is none of that name: the error that says which there are for this tenant."""
    names = list(offered(service, tenant))
    uses = names[:_NAMED_MAX]
    if len(names) > _NAMED_MAX:
        uses.append(f"one of {len(names) - _NAMED_MAX} more that GET /v1/models lists")
    if not service.settings.profiles:
        uses.append(f"{MODEL_PREFIX} and a model's name")
    use = f"use {' or '.join(uses)}" if uses else f"none is offered to {tenant}; ask whoever runs this service"
    return InvalidInput(f"there is no model {model[:80]!a} here: {use}", code="front.model")
