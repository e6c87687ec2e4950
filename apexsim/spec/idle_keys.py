"""Keys of a plan that would do nothing, and names of routers that nobody has: refused, so that a mistake is seen."""

from __future__ import annotations

from collections.abc import Mapping

from apexsim import registry
from apexsim.errors import ApexsimError, InputError, UsageError, unknown_name
from apexsim.spec.plan import Plan, Role
from apexsim.spec.transfer import Transfer

WITH_A_CACHE = ("prefix-aware", "lora-aware")
"""Routers that look at what units that encode do not have."""


def refuse_idle_keys(plan: Plan, source: str) -> None:
    """Raise for routers and a transfer that this plan has no use for; ``source`` is what a message calls it.

    Raises:
        UsageError: a router that nobody knows. InputError: one before pools, or a transfer between pools, that are not
        there.
    """
    wrong = _wrong_router(plan)
    if wrong is not None:
        raise type(wrong)(f"{source}: {wrong}")
    reason = _idle_transfer(plan.transfer, sorted({str(pool.role) for pool in plan.pools}))
    if reason is not None:
        raise InputError(f"{source}: {reason}")


def _wrong_router(plan: Plan) -> ApexsimError | None:
    routers = {"router": plan.router} if isinstance(plan.router, str) else _by_role(plan.router)
    names = registry.names("routers")
    for key, name in routers.items():
        if name not in names:
            return UsageError(f"{key}: {unknown_name('router', name, names)}")
    roles = sorted({str(pool.role) for pool in plan.pools})
    for key, name in routers.items():
        role = key.partition(".")[2]
        if role and role not in roles:
            return InputError(f"{key} = {name}: no pool has role={role} (allowed: {', '.join(roles)})")
        if role == "serve" and "prefill" in roles and name != plan.router_of("prefill"):
            decides = "where pools prefill, router.prefill says where a request enters"
            return InputError(f"{key} = {name}: {decides}, and is {plan.router_of('prefill')} (allowed: the same)")
    before = plan.router_of("encode")
    if "encode" in roles and before in WITH_A_CACHE:
        key = "router" if isinstance(plan.router, str) else "router.encode"
        allowed = ", ".join(name for name in names if name not in WITH_A_CACHE)
        lacks = "units with role=encode have no prefixes and no adapters"
        return InputError(f"{key} = {before}: {lacks} (allowed: {allowed}; one a role, router: {{encode: …}})")
    return None


def _by_role(router: Mapping[Role, str]) -> dict[str, str]:
    return {f"router.{role}": name for role, name in router.items()}


def _idle_transfer(transfer: Transfer, roles: list[str]) -> str | None:
    """Nothing goes from pool to pool where all serve; encoders send, too, but know nothing of KV."""
    if "prefill" in roles and "decode" in roles:
        return None
    said = transfer.model_dump(mode="json", exclude_defaults=True)
    if "encode" in roles:
        said.pop("latency", None)  # embeddings travel as KV does
    for key, value in said.items():
        told = str(value).lower() if isinstance(value, bool) else value
        return (
            f"transfer.{key} = {told}: no KV goes between pools with role={', '.join(roles)} (allowed: beside pools "
            "with role=prefill and role=decode; else leave it out)"
        )
    return None
